"""Whether everything that should learn can: routers and experts get gradient from the loss they are trained by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsemix.balance import Loss, balance_loss
from sparsemix.experts import ConcatExperts, CopyExperts, ModuleExperts, TiedExperts, ZeroExperts
from sparsemix.layer import MoE
from sparsemix.models import Decoder
from sparsemix.routing import Routing
from sparsemix.verify.finding import Finding, does_not_apply
from sparsemix.verify.situations import Subject, fixed_noise, gradients, upstream

SHOWN = 8
"""Numbers of experts that a row names."""


class Learning(NamedTuple):
    """What one backward pass of training brings to a mixture."""

    moe: MoE
    where: str
    routing: Routing
    of_task: dict[Tensor, Tensor]
    """Parameter -> gradient of the task's loss alone."""
    of_balance: dict[Tensor, Tensor]
    """Likewise of the balance losses, and of what routers ask for themselves."""
    text: str
    """On what."""
    lowest: bool = True
    """Whether there is no routing below it to build on."""


def layer_learning(subject: Subject) -> Learning:
    """Of a layer alone: the mean of y with random weights stands for the task."""
    moe, tokens = subject.moe, subject.tokens()
    with in_training(moe), fixed_noise():
        y, routing = moe(tokens.x, info=tokens.info, previous=tokens.previous)
        task, added = (y * upstream(y)).mean(), _added([routing], subject.losses)
    of_task, of_balance = (_by_parameter(loss, moe) for loss in (task, added))
    return Learning(moe, subject.where, routing, of_task, of_balance, tokens.name, tokens.previous is None)


def decoder_learning(decoder: Decoder, tokens_BS: Tensor, losses: Sequence[Loss]) -> list[Learning]:
    """Of each mixture of a decoder: the cross-entropy of these tokens is the task."""
    with in_training(decoder), fixed_noise():
        output = decoder(tokens_BS[:, :-1])
        target_T = tokens_BS[:, 1:].flatten()
        task = F.cross_entropy(decoder.logits(output.hidden_BSD).flatten(0, 1), target_T)
        added = _added(output.collected, losses) + _added(output.depth, ())
    of_task, of_balance = (_by_parameter(loss, decoder) for loss in (task, added))
    layers = decoder.config.moe_layers
    return [
        Learning(
            moe=decoder.blocks[layer].ffn,  # type: ignore[arg-type]
            where=f"block {layer}",
            routing=routing,
            of_task=of_task,
            of_balance=of_balance,
            text=f"{len(target_T)} tokens",
            lowest=layer == layers[0],
        )
        for layer, routing in zip(layers, output.collected)
    ]


def router_learns(learning: Learning) -> Finding:
    """The task reaches the router, and training reaches each of its parameters."""
    check, moe = "router learns", learning.moe
    named = dict(moe.router.named_parameters()) if isinstance(moe.router, nn.Module) else {}
    if not named:
        return does_not_apply(check, learning.where, "the router has no parameters")
    frozen = [name for name, parameter in named.items() if not parameter.requires_grad]
    total = {name: learning.of_task[p] + learning.of_balance[p] for name, p in named.items()}
    broken = [name for name, gradient in total.items() if not bool(gradient.isfinite().all())]
    idle = [name for name, gradient in total.items() if not bool(gradient.any()) and not _has_nothing(learning, name)]
    by_task = sum(float(learning.of_task[p].square().sum()) for p in named.values()) ** 0.5
    problems = [*(f"{n} is frozen" for n in frozen), *(f"{n} gets NaN" for n in broken), *(f"{n} gets 0" for n in idle)]
    if not by_task > 0:
        problems.append("nothing of the task's gradient arrives")
    detail = f"norm of the task's gradient {by_task:.2g}, {len(named)} parameters, {learning.text}"
    return Finding(check, learning.where, "; ".join(problems) or detail, not problems)


def experts_learn(learning: Learning) -> Finding:
    """Each expert with tokens gets gradient from the task; those without are listed."""
    check, by_expert = "experts learn", gradients_by_expert(learning.moe.experts, learning.of_task)
    if not any(by_expert):
        return does_not_apply(check, learning.where, "no expert has parameters")
    used = _live_loads(learning.routing, len(by_expert))
    stuck = [e for e, parts in enumerate(by_expert) if parts and used[e] and not _all_move(parts)]
    unused = [e for e, parts in enumerate(by_expert) if parts and not used[e]]
    if stuck:
        return Finding(check, learning.where, f"no finite gradient in {_named(stuck)}, which have tokens", False)
    with_tokens = sum(bool(parts) and used[e] > 0 for e, parts in enumerate(by_expert))
    detail = f"{with_tokens} experts have tokens and gradient, {learning.text}"
    if unused:
        detail += f"; {len(unused)} of {len(by_expert)} have none: {_named(unused)}"
    return Finding(check, learning.where, detail, True)


def gradients_by_expert(experts: Any, gradient_of: Mapping[Any, Tensor]) -> list[list[Tensor]]:
    """For each expert, the gradients of what is its own; nothing for experts without parameters."""
    match experts:
        case ZeroExperts() | CopyExperts():
            return [[] for _ in range(experts.num_experts)]
        case ConcatExperts():
            return [parts for part in experts.parts for parts in gradients_by_expert(part, gradient_of)]
        case TiedExperts():
            distinct = gradients_by_expert(experts.experts, gradient_of)
            return [distinct[owner] for owner in experts.owner_E.tolist()]
        case ModuleExperts():  # any of a module's parameters may be idle, but not all of them
            return [
                [torch.cat([gradient_of[p].flatten() for p in module.parameters()])] if [*module.parameters()] else []
                for module in experts.experts
            ]
        case _:
            stacks = [gradient_of[p] for p in experts.parameters()]
            return [[stack[e] for stack in stacks] for e in range(experts.num_experts)]


@contextmanager
def in_training(module: nn.Module) -> Iterator[None]:
    """Training mode inside the block; afterwards each submodule has the mode it had."""
    evaluated = [part for part in module.modules() if not part.training]
    module.train()
    try:
        yield
    finally:
        for part in evaluated:
            part.training = False


def _added(routings: Sequence[Routing], losses: Sequence[Loss]) -> Tensor:
    """The balance losses of training, 0 where there are none."""
    asking = [routing for routing in routings if losses or routing.loss is not None]
    return balance_loss(asking, losses) if asking else torch.zeros(())


def _by_parameter(loss: Tensor, module: nn.Module) -> dict[Tensor, Tensor]:
    moved = [parameter for parameter in module.parameters() if parameter.requires_grad]
    found = dict(zip(moved, gradients(loss, moved))) if moved else {}
    return {parameter: found.get(parameter, torch.zeros_like(parameter)) for parameter in module.parameters()}


def _has_nothing(learning: Learning, name: str) -> bool:
    """The weights of the routing below, in the lowest mixture."""
    return learning.lowest and name == "residual_EE"


def _live_loads(routing: Routing, num_experts: int) -> list[int]:
    """Edges of each expert that are computed and have a weight."""
    live_N = routing.weight_N.detach() != 0
    live_N = live_N if routing.live_N is None else live_N & routing.live_N
    return routing.expert_N[live_N].bincount(minlength=num_experts).tolist()


def _all_move(parts: Sequence[Tensor]) -> bool:
    return all(bool(part.isfinite().all()) and bool(part.any()) for part in parts)


def _named(experts: Sequence[int]) -> str:
    more = len(experts) - SHOWN
    return f"experts {', '.join(map(str, experts[:SHOWN]))}" + (f" and {more} more" if more > 0 else "")
