"""A tiny twin of every family of transformers by our back end and by its own loop: equal, or how far off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from families import Family, families
from harness import arguments, save
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.interop.transformers import forward, register
from sparsemix.interop.transformers.gates import activation_of
from sparsemix.kernels import Custom

IDLE = 1
"""The expert that gets no token."""
FORWARD, GRADIENT = 1e-5, 1e-4
"""The largest errors with which two are called equal."""


class Run(NamedTuple):
    """What one implementation computes."""

    y: Tensor
    gradients: dict[str, Tensor]
    """Of the parameters that take part."""
    calls: int
    """Of our kernel."""


def main(argv: Sequence[str] | None = None) -> None:
    """Compare every family and write interop_families.json."""
    settings = arguments("Tiny twins of transformers' families by our back end and by its own loop", argv)
    rows = []
    for family in families()[:: 20 if settings.toy else 1]:
        rows.append(result(family))
        print(f"{family.name:<24} {family.experts:<34} {rows[-1].get('reason', rows[-1]['equal'])}", flush=True)
    print(f"{sum(row['equal'] for row in rows)} of {len(rows)} equal")
    save("interop_families", {"limits": {"forward": FORWARD, "gradient": GRADIENT}, "families": rows}, settings.out)


def result(family: Family) -> dict[str, Any]:
    """`compare`, or the reason why there is nothing to compare."""
    try:
        return compare(family)
    except Exception as error:  # whatever one family raises, the others are to be had
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"family": family.name, "experts": family.experts, "equal": False, "reason": reason}


def compare(family: Family) -> dict[str, Any]:
    """Layout and errors of a family's tiny model with random parameters, one of its experts without tokens.

    Errors are largest differences over largest values: of the last hidden states; and of each parameter's gradient,
    where a thousandth of the largest of all gradients is taken if that is more, since some are zero but for rounding.
    """
    register()
    torch.manual_seed(0)
    model = family.tiny()
    mixtures = family.mixtures(model)
    check(bool(mixtures), family.model.__name__, f"must have {family.experts}", "none")
    randomise(model, family)
    with choices(mixtures) as chosen:
        theirs, ours = run(model, family, "eager"), run(model, family, "sparsemix")
    forward_error, gradient_error = relative(ours.y, theirs.y), worst(ours.gradients, theirs.gradients)
    return {
        "family": family.name,
        "experts": family.experts,
        "model": type(model).__name__,
        **layout(mixtures[0]),
        "num_experts": mixtures[0].num_experts,
        "k": chosen[0].shape[1],
        "idle": all(IDLE not in index_TK for index_TK in chosen),
        "calls": ours.calls,
        "mixtures": len(chosen) // 2,
        "forward_error": forward_error,
        "gradient_error": gradient_error,
        "equal": (theirs.calls, ours.calls) == (0, len(chosen) // 2)
        and forward_error <= FORWARD
        and gradient_error <= GRADIENT,
    }


@torch.no_grad()
def randomise(model: nn.Module, family: Family) -> None:
    """Experts all random; everything else, biases that only choose too, moved from where it begins."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        for own, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            noise = torch.randn(tensor.shape, generator=generator)
            if type(module).__name__ == family.experts:
                tensor.copy_(0.3 * noise)
            elif tensor.is_floating_point() and (isinstance(tensor, nn.Parameter) or "bias" in own):
                tensor.add_(0.1 * noise)


def run(model: Any, family: Family, implementation: str) -> Run:
    """Forward and backward of 14 tokens."""
    generator = torch.Generator().manual_seed(1)
    token_BS = torch.randint(3, 60, (2, 7), generator=generator)
    model.set_experts_implementation(implementation)
    model.zero_grad()
    with mock.patch.object(forward, "expert_mlp", wraps=forward.expert_mlp) as spy:
        y_BSD = model(**family.inputs(model, token_BS), use_cache=False).last_hidden_state
    y_BSD.backward(torch.randn(y_BSD.shape, generator=generator))
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return Run(y_BSD.detach(), gradients, spy.call_count)


@contextmanager
def choices(mixtures: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The experts chosen in each call, (T, K), after those who chose the idle one were given another."""
    chosen: list[Tensor] = []

    def without_idle(experts: Any, given: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x_TD, index_TK, weight_TK = given
        free_TE = torch.ones(len(index_TK), experts.num_experts).scatter_(1, index_TK, 0)
        free_TE[:, IDLE] = 0
        chosen.append(torch.where(index_TK == IDLE, free_TE.argmax(1, keepdim=True), index_TK))
        return x_TD, chosen[-1], weight_TK

    handles = [module.register_forward_pre_hook(without_idle) for module in mixtures]
    yield chosen
    for handle in handles:
        handle.remove()


def relative(ours: Tensor, theirs: Tensor, least: float = 0.0) -> float:
    """The largest difference over the largest value, or over `least`."""
    return (ours - theirs).abs().max().item() / max(theirs.abs().max().item(), least)


def worst(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest error of a gradient."""
    assert ours.keys() == theirs.keys(), "the same parameters take part"
    least = 1e-3 * max(gradient.abs().max().item() for gradient in theirs.values())
    return torch.tensor([relative(ours[name], theirs[name], least) for name in theirs]).max().item()


def layout(experts: Any) -> dict[str, Any]:
    """How a family stores its experts, and what stands between their projections."""
    activation = activation_of(experts)
    return {
        "activation": "its own function" if isinstance(activation, Custom) else str(activation),
        "gated": experts.has_gate,
        "interleaved": activation.interleaved,
        "transposed": experts.is_transposed,
        "bias": experts.has_bias,
        "norm": experts.has_post_expert_norm,
        "own_gate": "_apply_gate" in vars(type(experts))
        and type(experts)._apply_gate.__module__ == type(experts).__module__,
    }


if __name__ == "__main__":
    main()
