"""Rotary embedding in configs of Hugging Face's: `rope_parameters`, or `rope_theta` and `rope_scaling` of old."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from sparsemix.interop.families.keys import Keys
from sparsemix.models import LinearRopeConfig, Llama3RopeConfig, YarnConfig


class Rope(NamedTuple):
    """What a config says of positions."""

    theta: float
    scaling: LinearRopeConfig | Llama3RopeConfig | YarnConfig | None = None
    softmax_scale: float = 1.0
    """Multiplies the scores of latent attention: DeepSeek's YaRN puts a part of its factor there."""


def read_rope(keys: Keys, default_theta: float = 10_000.0) -> Rope:
    """What the keys say; those of `rope_scaling` go first, as in transformers.

    Raises:
        ValueError: a kind of scaling that our decoder has not, or an unknown key of one.
    """
    theta, context = keys.get("rope_theta", default_theta), keys.peek("max_position_embeddings")
    new, old = keys.inside("rope_parameters"), keys.inside("rope_scaling")
    inside = old or new
    if inside is None:
        return Rope(theta)
    theta = inside.get("rope_theta", theta)
    kind = inside.get("type", "default")
    kind = inside.choose("rope_type", {name: name for name in ("default", "linear", "llama3", "yarn")}, kind)
    inside.only("partial_rotary_factor", 1.0)
    match kind:
        case "linear":
            rope = Rope(theta, LinearRopeConfig(factor=inside.take("factor")))
        case "llama3":
            rope = Rope(theta, _llama3(inside, context))
        case "yarn":
            rope = Rope(theta, *_yarn(inside, context))
        case _:
            rope = Rope(theta)
    inside.done()
    return rope


def rope_keys(rope: Rope) -> dict[str, Any]:
    """The keys that say it, for transformers of before and after version 5."""
    said = {"rope_theta": rope.theta, **_scaling_keys(rope)}
    scaled = {} if rope.scaling is None else {"rope_scaling": said}
    return {"rope_theta": rope.theta, "rope_parameters": said, **scaled}


def _llama3(keys: Keys, context: int) -> Llama3RopeConfig:
    return Llama3RopeConfig(
        factor=keys.take("factor"),
        original_context=keys.get("original_max_position_embeddings", context),
        low_turns=keys.take("low_freq_factor"),
        high_turns=keys.take("high_freq_factor"),
    )


def _yarn(keys: Keys, context: int) -> tuple[YarnConfig, float]:
    """The scaling, and what it multiplies the scores of latent attention by."""
    factor, given = keys.take("factor"), keys.get("attention_factor")
    ours, all_dims = keys.get("mscale", 0), keys.get("mscale_all_dim", 0)
    if given is None and ours and all_dims:
        given = _magnitude(factor, ours) / _magnitude(factor, all_dims)
    yarn = YarnConfig(
        factor=factor,
        original_context=keys.get("original_max_position_embeddings", context),
        beta_fast=keys.get("beta_fast", 32.0),
        beta_slow=keys.get("beta_slow", 1.0),
        attention_factor=given,
        truncate=keys.get("truncate", True),
    )
    return yarn, _magnitude(factor, all_dims) ** 2 if all_dims else 1.0


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1


def _scaling_keys(rope: Rope) -> dict[str, Any]:
    match rope.scaling:
        case None:
            return {"rope_type": "default"}
        case LinearRopeConfig(factor=factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3RopeConfig() as llama:
            return {
                "rope_type": "llama3",
                "factor": llama.factor,
                "original_max_position_embeddings": llama.original_context,
                "low_freq_factor": llama.low_turns,
                "high_freq_factor": llama.high_turns,
            }
        case YarnConfig() as yarn:
            return _yarn_keys(yarn, rope.softmax_scale)


def _yarn_keys(yarn: YarnConfig, softmax_scale: float) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_context,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "truncate": yarn.truncate,
    }
    if yarn.attention_factor is not None:
        keys["attention_factor"] = yarn.attention_factor
    if yarn.factor > 1 and not math.isclose(softmax_scale, 1.0):
        magnitude = math.sqrt(softmax_scale)
        keys["mscale_all_dim"] = _magnified_by(magnitude, yarn.factor)
        keys["attention_factor"] = yarn.scale  # transformers takes this; libraries that do not know it take mscale
        keys["mscale"] = _magnified_by(magnitude * yarn.scale, yarn.factor)
    return keys


def _magnified_by(magnitude: float, factor: float) -> float:
    """The inverse of `_magnitude`; it had few digits, so that rounding finds it again."""
    return round((magnitude - 1) / (0.1 * math.log(factor)), 9)
