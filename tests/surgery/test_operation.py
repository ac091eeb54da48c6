"""What an edit did is measured, and one that is not as exact as theory says goes no further."""

from __future__ import annotations

import pytest
import torch
from surgery.models import dense, sparse, text

from sparsemix.interop import cast
from sparsemix.surgery import (
    Edited,
    GrowConfig,
    SplitConfig,
    Theory,
    UpcycleConfig,
    compare,
    grow,
    operate,
    split,
    upcycle,
    with_record,
)
from sparsemix.tensors import Held

NORM = "norm.weight"


def test_an_edit_is_compared_with_the_first_model() -> None:
    model = sparse()
    done = operate(lambda models, _: grow(models[0], GrowConfig()), [model], text())
    assert done.change == compare(model, done.edited.model, text())
    assert done.change.max_abs_logit > 1e-4
    assert done.max_abs_logit_float64 is None


def test_an_edit_that_theory_is_wrong_about_is_refused() -> None:
    def wrong(models, _) -> Edited:
        return grow(models[0], GrowConfig())._replace(theory=Theory(True, "of a mistake"))

    with pytest.raises(ValueError, match="surgery: must keep logits within 1e-05, since of a mistake, got "):
        operate(wrong, [sparse()], text())


def test_logits_that_are_not_finite_are_refused_even_where_theory_promises_nothing() -> None:
    def broken(models, _) -> Edited:
        after = grow(models[0], GrowConfig())
        tensors = {name: after.model.tensors.read(name) for name in after.model.tensors.specs}
        return after._replace(model=after.model._replace(tensors=Held({**tensors, NORM: tensors[NORM] / 0})))

    with pytest.raises(ValueError, match="surgery: must find finite logits before and after, got nan"):
        operate(broken, [sparse()], text())


def test_rounding_is_no_fault_of_an_edit() -> None:
    """Weights in bfloat16 that are multiplied by 3 are rounded; without rounding nothing changes."""
    model = cast(sparse(), torch.bfloat16)
    done = operate(lambda models, _: split(models[0], SplitConfig(num_shards=3)), [model], text())
    assert done.change.max_abs_logit > 1e-5
    assert done.max_abs_logit_float64 < 1e-10


def test_edits_are_remembered_in_order() -> None:
    model = dense()._replace(facts={"steps": 7})
    for verb in ("upcycle", "split"):
        model = with_record(model, {"verb": verb})
    assert model.facts == {"steps": 7, "surgery": [{"verb": "upcycle"}, {"verb": "split"}]}


def test_edits_follow_one_another_without_a_file_between() -> None:
    model = dense()
    chain = [
        lambda one: upcycle(one, UpcycleConfig(num_experts=4, router_std=0.5)),
        lambda one: split(one, SplitConfig(num_shards=2)),
        lambda one: grow(one, GrowConfig(num_experts=12, begin="dormant")),
    ]
    last = model
    for step in chain:
        last = step(last).model
    assert last.config.moe.num_experts == 12
    assert compare(model, last, text()).max_abs_logit < 1e-10


def test_ties_make_an_exact_edit_inexact_and_that_is_found() -> None:
    """Of two copies of an expert, of which one is chosen, half a shard of each would be."""
    tied = grow(sparse(), GrowConfig(num_experts=6, router_noise=0)).model
    with pytest.raises(ValueError, match="if experts do not tie"):
        operate(lambda models, _: split(models[0], SplitConfig()), [tied], text())
