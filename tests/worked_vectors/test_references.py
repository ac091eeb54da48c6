"""The references stand alone, and their shared helpers do what the other tests rely on."""

import ast
from pathlib import Path

import references
import torch
from cases import same
from references.edges import Edge, apart, choices_of, gate_matrix, kept_pairs, ranking
from worked_vectors.values import matrix


def test_references_import_nothing_of_the_package():
    for path in Path(references.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported = {(node.module or "").split(".")[0]}
            else:
                continue
            allowed = {"__future__", "collections", "itertools", "math", "references", "torch", "typing"}
            assert imported <= allowed, path.name


def test_ranking_is_by_falling_value_and_then_by_index():
    assert ranking([1, 3, 2, 3]) == [1, 3, 2, 0]
    assert ranking(matrix([1, 3, 2, 3]).requires_grad_()) == [1, 3, 2, 0]


def test_a_part_is_routed_in_numbers_of_its_own():
    seen = []

    def route(rows: list[int]) -> list[Edge]:
        seen.append(rows)
        return [Edge(len(rows) - 1, 5, matrix(1.0))]

    assert [edge.token for edge in apart(route, [[2, 4], [], [7]])] == [4, 7]
    assert seen == [[2, 4], [7]]


def test_matrices_and_pairs_leave_out_what_is_not_kept_and_choices_do_not():
    weight = matrix([2.0, 3.0]).requires_grad_()
    edges = [Edge(0, 1, weight[0]), Edge(0, 0, weight[1], kept=False)]
    same(gate_matrix(edges, 2, 2), matrix([[0, 2], [0, 0]]))
    same(torch.autograd.grad(gate_matrix(edges, 2, 2).sum(), weight)[0], matrix([1, 0]))
    assert gate_matrix([], 0, 3).shape == (0, 3)
    assert kept_pairs(edges) == {(0, 1)}
    assert choices_of(edges, 2) == [[1, 0], []]
