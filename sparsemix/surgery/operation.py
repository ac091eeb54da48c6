"""An edit and what it did, measured on text; one that is exact in theory but not in fact goes no further."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from sparsemix.checks import check
from sparsemix.interop.decoders import cast
from sparsemix.interop.stored import StoredModel
from sparsemix.surgery.compare import Change, compare
from sparsemix.surgery.edit import Edited
from sparsemix.surgery.text import Text

TOLERANCE = 1e-5
"""The most that a logit may change where nothing should."""
Apply = Callable[[Sequence[StoredModel], Text], Edited]
"""A verb with its settings, of the models that it is given and the text that some decide by."""


class Operation(NamedTuple):
    """An edit, and the first model compared with it."""

    edited: Edited
    change: Change
    max_abs_logit_float64: float | None = None
    """The largest difference of a logit without rounding, where rounding hides that the edit is exact."""


def operate(apply: Apply, models: Sequence[StoredModel], text: Text) -> Operation:
    """Edit and measure.

    Rounding is no fault of an edit: narrow weights that were multiplied, or ties, change logits by more than the
    tolerance. An edit that should be exact is then tried on the same weights in float64.

    Raises:
        ValueError: the edit is refused; logits are not finite; or it is exact in theory, and they change even in
            float64.
    """
    found = apply(models, text)
    change = compare(models[0], found.model, text)
    finite, rule = math.isfinite(change.max_abs_logit), "must find finite logits before and after"
    check(finite, "surgery", rule, change.max_abs_logit, "nothing was written; check the model's weights")
    if not found.theory.exact or change.max_abs_logit <= TOLERANCE:
        return Operation(found, change)
    wide = [cast(model, torch.float64) for model in models]
    seen = compare(wide[0], apply(wide, text).model, text).max_abs_logit
    rule = f"must keep logits within {TOLERANCE:g}, since {found.theory.why}"
    check(
        seen <= TOLERANCE,
        "surgery",
        rule,
        f"{seen:g}",
        "nothing was written; if experts do not tie, please report this",
    )
    return Operation(found, change, seen)
