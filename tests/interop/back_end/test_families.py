"""Every family of the installed transformers computes by our kernels what it computes by its own loop."""

import importlib

import pytest

from benchmarks.families import families

FAMILIES = families()
ONE_EXPERT_A_TOKEN = ("zaya",)
"""Whose config allows no more."""


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.name}-{family.experts}")
def test_a_twin_is_equal_forward_and_in_every_gradient(family):
    found = importlib.import_module("interop_families").compare(family)
    assert found["forward_error"] <= 1e-5
    assert found["gradient_error"] <= 1e-4
    assert found["calls"] == found["mixtures"] >= 1
    assert found["idle"]
    assert found["num_experts"] >= 4
    assert found["k"] >= (1 if family.name in ONE_EXPERT_A_TOKEN else 2)
    assert found["equal"]


def test_no_family_is_forgotten():
    assert len({family.name for family in FAMILIES}) >= 64


def test_a_twin_that_differs_is_found_out(monkeypatch):
    twins, forward = (
        importlib.import_module(name) for name in ("interop_families", "sparsemix.interop.transformers.forward")
    )
    mixtral = next(family for family in FAMILIES if family.name == "mixtral")
    once = forward.expert_mlp
    monkeypatch.setattr(forward, "expert_mlp", lambda *arguments: once(*arguments) * (1 + 1e-4))
    assert not twins.compare(mixtral)["equal"]


def test_a_family_that_cannot_be_built_says_why():
    twins, kind = importlib.import_module("interop_families"), type(FAMILIES[0])
    found = twins.result(kind("mixtral", "NoSuchExperts"))
    assert not found["equal"]
    assert found["reason"] == "ValueError: MixtralModel: must have NoSuchExperts, got none"
