"""Upcycling: the FFNs of a dense model become the experts of mixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.experts import DenseConfig, GLUExpertsConfig, MLPExpertsConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.layer import MoEConfig
from sparsemix.models import DecoderConfig
from sparsemix.routers import RouterConfig, TopKRouterConfig
from sparsemix.surgery.draws import new_router, normal_like, stream
from sparsemix.surgery.edit import Edited, Theory, check_dense, edited, ffn, router_dtype
from sparsemix.surgery.gates import sums_to_one, usual_sum
from sparsemix.surgery.reorder import take
from sparsemix.surgery.shards import check_divides, cut_down, cut_up, dense_parts, halves, scaled, stacked_parts
from sparsemix.tensors import Recipe


@config
class UpcycleConfig:
    """Which mixtures a dense model gets, and how its FFNs become their experts."""

    num_experts: int = Field(8, ge=2)
    """E of each mixture, shards counted."""
    router: RouterConfig = TopKRouterConfig()
    """Which experts a token goes to; new, with random weights."""
    moe_every: int = Field(1, ge=1)
    """Every so many-th block gets a mixture, the last of each group."""
    dense_first: int = Field(0, ge=0)
    """So many blocks at the start stay dense, before `moe_every` begins to count."""
    num_shards: int = Field(1, ge=1)
    """G: an expert is a copy of one of so many parts of the FFN rather than of all of it (granular upcycling)."""
    scaling: Literal["output", "cube_root", "none"] = "output"
    """Routing divides what copies give. Multiply the down projections by as much; or every projection by the cube root
    of it (Nvidia's); or none."""
    noise: float = Field(0.0, ge=0, le=1)
    """Share of each expert's weights that are drawn anew."""
    drop: float = Field(0.0, ge=0, le=1)
    """Share of each expert's hidden units, all weights of which are drawn anew (drop-upcycling: 0.5)."""
    router_std: float = Field(0.02, ge=0)
    """Standard deviation of the routers' weights."""
    seed: int = 0
    """Of all that is drawn."""


def upcycle(model: StoredModel, settings: UpcycleConfig) -> Edited:
    """Experts are copies of the FFN, or of its G shards; where weights add up to 1, the model does what it did.

    Shards have virtual groups: the routers' rows are the same for each shard, so that the k best experts are k / G
    whole copies. What is drawn anew has the mean and the standard deviation of the matrix it is in.

    Raises:
        ValueError: the model has mixtures already or no FFN, or it cannot be cut up so.

    Source: sparse upcycling (2212.05055); virtual groups and scaling (2410.07524), there for weights that add up to
    k / E only; drop-upcycling (2502.19261), with mean and deviation there of the units that are drawn anew.
    """
    check_dense(model)
    kind = model.config.ffn
    assert kind is not None
    _check_shards(settings, kind)
    moe = MoEConfig(
        num_experts=settings.num_experts,
        router=settings.router,
        experts=replace(kind, hidden=kind.hidden // settings.num_shards),
    )
    new = replace(
        model.config, moe=moe, moe_every=settings.moe_every, dense_first=settings.dense_first, dense_layers=()
    )
    check(new.moe_layers != (), "moe_every", "must leave a block with a mixture", "none", "lower it or dense_first")
    if len({*new.moe_layers, *new.without_ffn}) == new.num_layers:
        new = replace(new, ffn=None)
    recipes: dict[str, Recipe] = {}
    for layer in new.moe_layers:
        recipes |= _experts(layer, kind, settings)
        recipes |= _router(new, layer, settings, router_dtype(model))
    return Edited(edited(model, new, recipes), _theory(settings, kind))


def _check_shards(settings: UpcycleConfig, kind: DenseConfig) -> None:
    shards, experts = settings.num_shards, settings.num_experts
    if shards == 1:
        return
    check_divides(shards, kind.hidden)
    remedy = "make it a multiple"
    check(experts % shards == 0, "num_experts", f"must be copies of all {shards} shards", experts, remedy)
    groups, remedy = isinstance(settings.router, TopKRouterConfig), "use topk, or num_shards=1"
    check(groups, "router", "must be topk where groups share their rows", settings.router.type, remedy)


def _router(config: DecoderConfig, layer: int, settings: UpcycleConfig, dtype: torch.dtype) -> dict[str, Recipe]:
    """As for a new model, and with shards the first of its rows for each of them."""
    found = new_router(config, layer, settings.router_std, settings.seed, dtype)
    if settings.num_shards == 1:
        return found
    order = [*range(settings.num_experts // settings.num_shards)] * settings.num_shards
    return {name: take(recipe, order) for name, recipe in found.items()}


def _experts(layer: int, kind: DenseConfig, settings: UpcycleConfig) -> dict[str, Recipe]:
    """Expert g E / G + e is copy e of shard g."""
    shards, inner, outer, bias = settings.num_shards, *_factors(settings)
    dense, stacked, sides = dense_parts(kind), stacked_parts(kind), halves(kind)
    copies = settings.num_experts // shards

    def copied(name: str, cut: Callable[[Tensor], Tensor], units: tuple[int, int] | None) -> Recipe:
        def make(found: Sequence[Tensor]) -> Tensor:
            stack = cut(found[0][None])[0].repeat_interleave(copies, dim=0)
            return _redrawn(stack, settings, ffn(layer), name, units)

        return Recipe((ffn(layer) + getattr(dense, name),), make)

    recipes = {
        "up": copied("up", lambda up: scaled(cut_up(up, sides, shards), inner), (1, sides)),
        "down": copied("down", lambda down: scaled(cut_down(down, shards), outer), (2, 1)),
    }
    if kind.bias:
        recipes["up_bias"] = copied("up_bias", lambda up: scaled(cut_up(up, sides, shards), inner), None)
        recipes["down_bias"] = copied("down_bias", lambda down: scaled(down, bias)[:, None].repeat(1, shards, 1), None)
    return {ffn(layer) + getattr(stacked, name): recipe for name, recipe in recipes.items()}


def _factors(settings: UpcycleConfig) -> tuple[float, float, float]:
    """What up projections, down projections and the biases of down projections are multiplied by."""
    if settings.scaling == "none":
        return 1.0, 1.0, 1.0
    total = usual_sum(settings.router, settings.num_experts)
    check(total is not None, "scaling", f"must be none with the {settings.router.type} router", settings.scaling)
    assert total is not None
    factor = settings.num_shards / total
    if settings.scaling == "cube_root":
        return factor ** (1 / 3), factor ** (1 / 3), 1 / total
    return 1.0, factor, 1 / total


def _redrawn(stack: Tensor, settings: UpcycleConfig, block: str, name: str, units: tuple[int, int] | None) -> Tensor:
    """The stack with a share of its weights, and of its hidden units, drawn anew in each expert.

    Args:
        stack: matrices, or biases, which stay as they are.
        settings: the shares.
        block: where the stack is; hidden units are the same for all matrices of an expert.
        name: which of these matrices it is.
        units: the axis of hidden units, and the number of parts that lie one behind the other there; None: biases.
    """
    if stack.is_meta or units is None or not (settings.noise or settings.drop):
        return stack
    axis, sides = units
    for expert, matrix in enumerate(stack):
        draw = stream(settings.seed, f"{block}{name}/{expert}")
        chosen = torch.rand(matrix.shape, generator=draw) < settings.noise
        hidden = matrix.shape[axis - 1] // sides
        order = torch.randperm(hidden, generator=stream(settings.seed, f"{block}units/{expert}"))
        dropped = torch.zeros(hidden, dtype=torch.bool)
        dropped[order[: int(settings.drop * hidden)]] = True
        chosen |= dropped.repeat(sides).view(-1, 1) if axis == 1 else dropped
        new = torch.cat([normal_like(part, draw) for part in matrix.chunk(sides)])
        matrix.copy_(torch.where(chosen, new, matrix))
    return stack


def _theory(settings: UpcycleConfig, kind: DenseConfig) -> Theory:
    """Whether sum_i w_i f_i(x) is f(x) where f_i are the shards of f."""
    router, shards = settings.router, settings.num_shards
    if settings.noise or settings.drop:
        return Theory(False, "weights were drawn anew")
    if not sums_to_one(router, settings.num_experts):
        return Theory(False, f"the weights of the {router.type} router do not add up to 1 for each token")
    if shards == 1:
        return Theory(True, "each expert is the FFN, and the weights of a token add up to 1")
    assert isinstance(router, TopKRouterConfig)
    if router.k % shards:
        return Theory(False, f"k={router.k} experts are no whole copies of {shards} shards")
    if settings.router_std == 0 and router.k < settings.num_experts:
        return Theory(False, "all experts tie, so that a token's are no whole copies")
    if settings.scaling == "none":
        return Theory(False, f"{shards} shards with weights that add up to 1 give a {shards}-th of the FFN")
    if settings.scaling == "cube_root" and not _is_cubic(kind):
        return Theory(False, f"a factor on each projection is no factor on the output of {kind.type} experts")
    return Theory(True, "a token's experts are whole copies of the FFN, whose shards have equal weights")


def _is_cubic(kind: DenseConfig) -> bool:
    """Whether the factor s on each projection is s^3 on the output."""
    match kind:
        case MLPExpertsConfig():
            return kind.activation == "relu2"
        case GLUExpertsConfig():
            return kind.activation in ("relu", "identity")
        case _:
            return False
