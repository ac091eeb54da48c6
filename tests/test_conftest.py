"""The checks that every test runs under do check."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch

import sparsemix


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(3),
        lambda: torch.zeros(3).new_empty(3),
        lambda: torch.empty_like(torch.zeros(3, dtype=torch.float64)),
        lambda: torch.empty_strided((2, 3), (3, 1)),
    ],
)
def test_uninitialised_memory_is_nan(make):
    assert make().isnan().all()


def run_as_package_code(source: str) -> None:
    code = compile(source, str(Path(sparsemix.__file__).parent / "made_up.py"), "exec")
    exec(code, {"torch": torch})


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("x_TD = torch.zeros(3, 4); return x_TD", None),
        ("x_TD = torch.zeros(3); return x_TD", "f: x_TD has 1 axes"),
        ("x_TD = y_DT = torch.zeros(3, 4); return 0", "f: D is 3 in y_DT but 4 in x_TD"),
        ("w_N1 = torch.zeros(3, 2); return 0", "f: 1 is 2 in w_N1 but 1 in the digit"),
        ("x_TD = y_DT = torch.zeros(3, 4); raise KeyError", None),
        ("num_tokens = x_step = torch.zeros(3); x_TD = None; return 0", None),
    ],
)
def test_shape_suffixes(shape_suffixes, body, complaint):
    with suppress(KeyError):
        run_as_package_code(f"def f():\n    {body}\nf()")
    seen = [*shape_suffixes]
    shape_suffixes.clear()
    if complaint is None:
        assert seen == []
    else:
        assert complaint in seen
