"""Balance losses: known values of known routings, and value and gradient on the layer's own against the formula."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsemix.balance import Loss
from sparsemix.routing import Routing, TokenInfo
from sparsemix.verify.differences import TOLERANCE, error_of
from sparsemix.verify.finding import Comparison, Finding, does_not_apply
from sparsemix.verify.loss_formulas import counted, formula
from sparsemix.verify.situations import Subject, fixed_noise, gradients, twin, wide


def check_losses(subject: Subject) -> Iterator[Finding]:
    """Two rows for each balance loss that the layer is trained with."""
    if not subject.losses:
        yield does_not_apply("balance losses", subject.where, "the router is trained with none")
    for loss in subject.losses:
        name = f"balance loss {cast(Any, loss).type}"
        yield _known_values(loss, subject, name)
        yield _on_its_own_routing(loss, subject, name)


def _known_values(loss: Any, subject: Subject, name: str) -> Finding:
    """Of experts all used alike, and of one that has everything."""
    num_experts = subject.moe.router.num_experts
    comparison = Comparison(num_experts, torch.float64)
    even, all_to_one = known(loss, num_experts)
    for situation, routing, value in (
        ("even load", even_routing(loss, num_experts), even),
        ("all to one expert", collapsed_routing(loss, num_experts), all_to_one),
    ):
        actual, wanted = loss(routing).item(), torch.tensor(value, dtype=torch.float64).item()
        comparison.note(abs(actual - wanted) / max(abs(wanted), 1.0), f"{actual:.6g} for {wanted:.6g}, {situation}")
    return comparison.finding(name, subject.where, "known values")


def known(loss: Any, num_experts: int) -> tuple[float, float]:
    """Value where one choice a token and all probability are even, and where all is at expert 0."""
    e = float(num_experts)
    match loss.type:
        case "switch":
            return (1 / e**2, 1 / e) if loss.form == "gshard" else (1.0, e)
        case "z":
            return math.log(e) ** 2, 0.0
        case "importance" | "load":
            return 0.0, e - 1
        case "sequence" | "null":
            return 1.0, e
        case "device":
            return 1.0, float(loss.num_devices)
        case "communication":
            return 1 / loss.devices_per_token, loss.num_devices / loss.devices_per_token
        case "local_entropy":
            return math.log(e), 0.0
        case "global_entropy":
            return 0.0, math.log(loss.min_experts)
        case "cost":
            return sum(loss.costs) / e**2, loss.costs[0]
    raise TypeError(f"losses: must be of a kind with a known value, got {loss.type}; write it down")


def even_routing(loss: Any, num_experts: int) -> Routing:
    """As many tokens as experts; each goes to one of its own and prefers none."""
    logits_TE = torch.zeros(num_experts, num_experts, dtype=torch.float64)
    return _routing(loss, torch.arange(num_experts), logits_TE)


def collapsed_routing(loss: Any, num_experts: int) -> Routing:
    """As many tokens, all sure of expert 0."""
    logits_TE = torch.full((num_experts, num_experts), -1e4, dtype=torch.float64)
    logits_TE[:, 0] = 0
    return _routing(loss, torch.zeros(num_experts, dtype=torch.int64), logits_TE)


def _routing(loss: Any, expert_N: Tensor, logits_TE: Tensor) -> Routing:
    probs_TE, none_T = logits_TE.softmax(-1), torch.zeros_like(expert_N)
    return Routing(
        token_N=torch.arange(len(expert_N)),
        expert_N=expert_N,
        weight_N=torch.ones(len(expert_N), dtype=torch.float64),
        logits_TE=logits_TE,
        probs_TE=probs_TE,
        load_TE=probs_TE,
        edges_per_token=1,
        info=TokenInfo(sequence_T=none_T, modality_T=none_T + (getattr(loss, "modality", None) or 0)),
    )


def _on_its_own_routing(loss: Loss, subject: Subject, name: str) -> Finding:
    """In training and in float64; with padding too."""
    moe = twin(subject.moe).train()
    parameters = dict(cast(nn.Module, moe.router).named_parameters())
    comparison = Comparison(subject.terms, torch.float64)
    names = ["value", *(f"gradient of router.{one}" for one in parameters)]
    for tokens in map(wide, subject.situations()):
        if not len(tokens.x):
            continue

        def routed(tokens: Any = tokens) -> Routing:
            with fixed_noise():
                return moe.router(tokens.x, tokens.info, tokens.previous)

        routing = routed()
        actual, expected = loss(routing), formula(loss, counted(routing, len(tokens.x)))
        inputs = list(parameters.values())
        found, wanted = gradients(actual, inputs), gradients(formula(loss, counted(routed(), len(tokens.x))), inputs)
        comparison.add(tokens.name, zip(names, [actual, *found], strict=True), [expected, *wanted])
        if tokens.name == "random tokens":
            for one, gradient in zip(parameters, found):
                error = error_of(lambda: loss(routed()), parameters[one], gradient)
                comparison.note(error * comparison.tolerance / TOLERANCE, f"derivative along router.{one}")
    return comparison.finding(name, subject.where, "formula in float64")
