"""The tokens that experts choose among, and what they take of them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsemix import TokenInfo
from sparsemix.routers.groups import by_group, cut, fair_share, in_groups, taken, whole_batch


@given(st.lists(st.tuples(st.sampled_from([-7, 0, 3, 11]), st.booleans()), max_size=12))
def test_groups_hold_their_valid_tokens_in_order(tokens):
    group_T = torch.tensor([group for group, _ in tokens], dtype=torch.int64)
    valid_T = torch.tensor([valid for _, valid in tokens], dtype=torch.bool)
    grid_GS = by_group(group_T, whole_batch(group_T[:, None], TokenInfo(valid_T=valid_T)))
    names = sorted({group for group, valid in tokens if valid})
    expected = [[t for t, (group, valid) in enumerate(tokens) if valid and group == name] for name in names]
    assert [[t for t in row if t < len(tokens)] for row in grid_GS.tolist()] == expected
    assert grid_GS.shape == (len(names), max(map(len, expected), default=0))


def test_groups_are_cut_into_runs_of_one_size_but_for_the_last_of_each():
    grid_GS = torch.tensor([[0, 1, 3, 4, 6], [2, 5, 7, 7, 7]])
    assert cut(grid_GS, 2, 7).tolist() == [[0, 1], [3, 4], [6, 7], [2, 5]]
    assert cut(grid_GS, 9, 7).tolist() == [[0, 1, 3, 4, 6, 7, 7, 7, 7], [2, 5, 7, 7, 7, 7, 7, 7, 7]]
    assert cut(grid_GS[:, :0], 2, 7).tolist() == []


def test_a_share_is_rounded_up_but_not_by_floating_point():
    grid_GS = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]])
    assert fair_share(grid_GS, 9, 1.5, 4).tolist() == [[2], [2], [1]]
    assert fair_share(torch.arange(100)[None], 100, 1.1, 10).tolist() == [[11]]  # 1.1 * 100 is above 110


def test_experts_take_as_many_as_they_have_room_for_and_the_earlier_of_equal_tokens():
    scores_TE = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [9.0, 9.0], [0.0, 5.0]])
    grid_GS = torch.tensor([[0, 1, 2], [4, 5, 5]])  # token 3 is in no group; 5 stands for no token
    room_GE = torch.tensor([[1, 2], [3, 0]])
    assert taken(scores_TE, grid_GS, room_GE).nonzero().tolist() == [[0, 1], [1, 1], [2, 0], [4, 0]]


def test_a_place_without_a_token_has_no_value():
    assert in_groups(torch.tensor([[1.0], [2.0]]), torch.tensor([[1, 2]])).tolist() == [[[2.0], [-torch.inf]]]
