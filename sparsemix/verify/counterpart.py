"""A Hugging Face folder against transformers: our decoder's logits where we have one, and otherwise its experts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsemix.checks import require
from sparsemix.interop.transformers import register
from sparsemix.models import Decoder, DecoderConfig, evaluating
from sparsemix.verify.finding import Comparison, Finding, does_not_apply
from sparsemix.verify.situations import gradients, upstream

PURPOSE = "to compare with its models"
FAR, FARTHEST = 128, 512
"""Tokens in a row that logits are compared on, and the widest window that more of them are taken for."""


def reach(config: DecoderConfig, num_tokens: int) -> int:
    """How many tokens in a row show all of a model: windows and slowed down frequencies act only from afar."""
    beyond = 0 if config.window is None or config.window.size > FARTHEST else config.window.size + 8
    return min(max(num_tokens, FAR, beyond), config.context)


@torch.no_grad()
def check_logits(folder: Path, decoder: Decoder, tokens_BS: Tensor) -> Finding:
    """The decoder that was imported, and what transformers makes of the same folder, on the same tokens."""
    theirs = _load(folder)[0].to(tokens_BS.device)
    expected = theirs(input_ids=tokens_BS, use_cache=False).logits
    with evaluating(decoder):
        actual = decoder.logits(decoder(tokens_BS).hidden_BSD)
    comparison = Comparison(decoder.config.dim * decoder.config.num_layers, torch.float32)
    comparison.add(f"{tokens_BS.numel()} tokens", [("logits", actual)], [expected])
    against, window = f"transformers' {type(theirs).__name__}", decoder.config.window
    if window is not None and tokens_BS.shape[1] <= window.size < decoder.config.context:
        against += f"; no token was outside the window of {window.size}: raise --tokens"
    return comparison.finding("logits", "model", against)


def check_experts(folder: Path, tokens_BS: Tensor, reason: str) -> Iterator[Finding]:
    """Of a family that our decoder is not: each experts module by our kernels against its own loop in float64."""
    yield does_not_apply("import", "model", reason)
    register()
    model, misfits = _load(folder)
    yield Finding("tensors", "checkpoint", "; ".join(misfits[:3]) or "each in its place", not misfits)
    model = model.to(tokens_BS.device)
    seen = _inputs(model, tokens_BS)
    if not seen:
        yield does_not_apply(
            "experts by sparsemix", "model", "no module of it is behind transformers' experts interface"
        )
        return
    doubles = {name: copy.deepcopy(module).double() for name, module in model.named_modules() if name in seen}
    expected_BSV = _logits(model, tokens_BS)
    model.set_experts_implementation("sparsemix")
    for name, inputs in seen.items():
        module = model.get_submodule(name)
        if module.config._experts_implementation != "sparsemix":  # or it would be compared with itself
            yield Finding("experts by sparsemix", name, f"{type(module).__name__} did not take our kernels", False)
            continue
        comparison = Comparison(max(size for p in module.parameters() for size in p.shape[1:]), torch.float32)
        actual, expected = _pass(module, inputs, torch.float32), _pass(doubles[name], inputs, torch.float64)
        names = [
            "gradient of x",
            "gradient of weights",
            *(f"gradient of {one}" for one, _ in module.named_parameters()),
        ]
        comparison.add("hidden states", [("output", actual[0])], expected[:1])
        comparison.add("hidden states", zip(names, actual[1:], strict=True), expected[1:])
        yield comparison.finding("experts by sparsemix", name, f"{type(module).__name__} in float64")
    comparison = Comparison(expected_BSV.shape[-1], torch.float32)
    comparison.add(f"{tokens_BS.numel()} tokens", [("logits", _logits(model, tokens_BS))], [expected_BSV])
    yield comparison.finding("logits", "model", "the same model with eager experts")


def _load(folder: Path) -> tuple[Any, list[str]]:
    """The model in float32, and which of its tensors and those of the files do not belong together.

    Transformers only warns of these, and leaves random numbers where a tensor is missing.
    """
    transformers: Any = require("transformers", PURPOSE)
    settings = {"dtype": torch.float32, "attn_implementation": "eager", "experts_implementation": "eager"}
    safe = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, **safe, **settings
        )
    except Exception as error:  # whatever the code of its family raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        rule, remedy = "must be a language model that transformers can load", "see what transformers says of it"
        raise ValueError(f"{folder}: {rule}, got {reason}; {remedy}") from error
    misfits = [f"{name} is missing" for name in sorted(info["missing_keys"])]
    return model.eval(), misfits + [f"{name} is left over" for name in sorted(info["unexpected_keys"])]


@torch.no_grad()
def _logits(model: Any, tokens_BS: Tensor) -> Tensor:
    return model(input_ids=tokens_BS, use_cache=False).logits


def _inputs(model: Any, tokens_BS: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """What each module behind the experts interface is called with: tokens, experts, weights."""
    found: dict[str, tuple[Tensor, ...]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: found.__setitem__(name, (*args, *kwargs.values())), with_kwargs=True
        )
        for name, module in model.named_modules()
        if hasattr(module, "is_transposed") and hasattr(module, "has_bias")
    ]
    try:
        _logits(model, tokens_BS)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _pass(module: Any, inputs: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Output, and gradients of the tokens, their weights and the parameters."""
    x, experts, weights = inputs
    x, weights = (tensor.detach().to(dtype).requires_grad_() for tensor in (x, weights))
    y = module(x, experts, weights)
    return [y.detach(), *gradients((y * upstream(y)).sum(), [x, weights, *module.parameters()])]
