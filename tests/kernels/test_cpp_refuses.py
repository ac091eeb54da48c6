"""What compiled code refuses: it would read and write past the ends of memory without a word."""

import pytest
import torch
from cpp_cases import activation_of, dispatch_of_size, needs_a_compiler, tensors

from sparsemix.kernels import Gated, cpp
from sparsemix.kernels.weights import Needs

pytestmark = needs_a_compiler


def bad(field, change):
    """The dispatch of 6 tokens, two edges each, with one field changed."""
    dispatch = dispatch_of_size(6, 4, 2, dead=True)
    return dispatch._replace(**{field: change(getattr(dispatch, field))})


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("token_N", lambda token: token + 1, r"token_N: must be int64 from 0 to 5, got torch.int64 from 1 to 6"),
        ("token_N", lambda token: token - 1, r"token_N: .* from -1 to 4"),
        ("token_N", lambda token: token.int(), r"token_N: .* got torch.int32"),
        ("weight_N", lambda weight: weight[1:], r"weight_N: must be a number a row, got \(11,\)"),
        ("bounds", lambda bounds: bounds.long(), r"bounds: must be int32, .* got torch.int64"),
        ("bounds", lambda bounds: bounds[1:], r"bounds: .* 5 offsets"),
        ("bounds", lambda bounds: bounds + 1, r"bounds: .* rise from 0"),
        ("bounds", lambda bounds: bounds * 9, r"bounds: .* at most 12"),
        ("bounds", lambda bounds: bounds[[0, 2, 1, 3, 4]], r"bounds: .* rise"),
        ("slot_TK", lambda slot: slot[1:], r"slot_TK: must be a row a token, got \(5, 2\)"),
        ("slot_TK", lambda slot: slot + 1, r"slot_TK: must be int64 from 0 to 11"),
        ("slot_TK", lambda slot: slot.int(), r"slot_TK: must be int64"),
    ],
)
def test_a_dispatch_of_rows_that_are_not_there_is_refused(field, change, message):
    x_TD, dy_TD, weights = tensors((6, 8, 6, 4, 2), "gated")
    _, saved = cpp.forward(x_TD, dispatch_of_size(6, 4, 2, dead=True), weights, Gated("silu"))
    with pytest.raises(ValueError, match=f"^{message}"):
        cpp.forward(x_TD, bad(field, change), weights, Gated("silu"))
    with pytest.raises(ValueError, match=f"^{message}"):
        cpp.backward(dy_TD, x_TD, saved, bad(field, change), weights, Gated("silu"), Needs())


@pytest.mark.parametrize(
    ("field", "axis"),
    [(field, axis) for field in ("up_EGD", "down_EDF") for axis in range(3)]
    + [(field, axis) for field in ("up_bias_EG", "down_bias_ED") for axis in range(2)],
)
def test_weights_that_do_not_go_together_are_refused(field, axis):
    size = (6, 8, 6, 4, 2)
    x_TD, _, weights = tensors(size, "clamped")
    weights = weights._replace(**{field: getattr(weights, field).narrow(axis, 1, 3)})
    for run_one in (
        lambda: cpp.forward(x_TD, dispatch_of_size(6, 4, 2, dead=False), weights, activation_of("clamped")),
        lambda: cpp.one_token(x_TD[:1], torch.tensor([0]), torch.ones(1), weights, activation_of("clamped")),
    ):
        with pytest.raises(ValueError, match=r"^\w+: must be of shape .*, to go with x_TD and down_EDF, got \("):
            run_one()


def test_an_expert_that_is_not_there_is_refused():
    x_1D, _, weights = tensors((1, 8, 6, 4, 1), "gated")
    for expert in (-1, 4):
        with pytest.raises(ValueError, match=rf"^expert_K: must be in 0\.\.3, got \[{expert}\]$"):
            cpp.one_token(x_1D, torch.tensor([expert]), torch.ones(1), weights, Gated("silu"))


def test_a_row_or_a_norm_of_another_length_is_refused():
    with pytest.raises(
        ValueError, match=r"^x_1D: must be one row, as long as those of w_FD, got torch.Size\(\[1, 2\]\)$"
    ):
        cpp.one_row(torch.ones(1, 2), torch.ones(5, 3))
    with pytest.raises(ValueError, match=r"^bias_F: must be as long as w_FD has rows, got torch.Size\(\[1\]\)$"):
        cpp.one_row(torch.ones(1, 3), torch.ones(5, 3), torch.ones(1))
    with pytest.raises(ValueError, match=r"^weight_D: must be as long as the last axis of x, got torch.Size\(\[4\]\)$"):
        cpp.rms_norm(torch.ones(2, 3), torch.ones(4), 1e-6)
