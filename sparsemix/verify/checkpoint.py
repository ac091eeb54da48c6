"""A checkpoint by itself: every tensor in its place, finite, not left at zero, and no expert twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsemix.experts import ConstantExperts, GLUExperts, MLPExperts
from sparsemix.models import Decoder, DecoderConfig
from sparsemix.tensors import TensorSource, spec_of
from sparsemix.verify.finding import Finding, does_not_apply

BORN_ZERO = ("bias", "noise", "excess")
"""In the names of tensors that begin as zeros, and may stay so."""
WHERE = "checkpoint"
LOSSES = ("loss", "balance")
"""What a step writes of its own."""


class _Read(NamedTuple):
    """What one pass over the tensors has shown."""

    broken: list[str]
    """Tensors with NaN or infinite numbers."""
    empty: list[str]
    """Tensors, or experts of a stack, of nothing but zeros."""
    digests: dict[str, list[list[bytes]]]
    """Experts' name -> for each expert, the digests of its tensors."""


def check_tensors(config: DecoderConfig, tensors: TensorSource, *, edited: bool = False) -> Iterator[Finding]:
    """Reads each tensor once, one at a time; where a model was edited and not trained since, experts may be copies."""
    with torch.device("meta"):
        decoder = config.build()
    yield _places(decoder, tensors)
    stacks = _stacks(decoder)
    read = _read(tensors, {name: stack for stack, names in stacks.items() for name in names})
    yield _of_names("numbers", read.broken, "all finite", "NaN or infinite numbers in")
    yield _of_names("zeros", read.empty, "no matrix of nothing but zeros", "nothing but zeros in")
    twins = _experts_differ(read.digests)
    if edited and twins.passed is False:
        twins = does_not_apply(twins.check, WHERE, f"the model was edited and not trained since; {twins.detail}")
    yield twins


def check_metrics(metrics: Sequence[Mapping[str, Any]]) -> Finding:
    """Of a run: JSON has no NaN, so that a number which was not finite is null."""
    if not metrics:
        return does_not_apply("metrics", "run", "there are none")
    lost = [f"{name} at step {one['step']}" for one in metrics for name in LOSSES if one.get(name, 0) is None]
    return _of_names("metrics", lost, f"losses of {len(metrics)} rows are finite", "no finite", "run")


def _places(decoder: Decoder, tensors: TensorSource) -> Finding:
    expected = {name: spec_of(tensor).shape for name, tensor in decoder.state_dict().items()}
    found = {name: spec.shape for name, spec in tensors.specs.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is left over" for name in found if name not in expected]
    problems += [
        f"{name} has shape {list(found[name])}, not {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    dtypes = Counter(str(spec.dtype).removeprefix("torch.") for spec in tensors.specs.values())
    summary = ", ".join(f"{count} of {dtype}" for dtype, count in dtypes.items())
    return Finding("tensors", WHERE, "; ".join(problems[:3]) or f"each in its place: {summary}", not problems)


def _stacks(decoder: Decoder) -> dict[str, list[str]]:
    """Name of stacked experts -> names of their tensors, expert by expert along the first axis."""
    return {
        name: [f"{name}.{leaf}" for leaf, _ in module.named_parameters()]
        for name, module in decoder.named_modules()
        if isinstance(module, GLUExperts | MLPExperts | ConstantExperts)
    }


def _read(tensors: TensorSource, stack_of: Mapping[str, str]) -> _Read:
    read = _Read([], [], defaultdict(list))
    for name in tensors.specs:
        tensor = tensors.read(name)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            read.broken.append(name)
        parts = list(tensor) if name in stack_of else [tensor]
        if tensor.ndim > 1 and not any(word in name.rpartition(".")[2] for word in BORN_ZERO):
            labels = [f"{name}[{e}]" for e in range(len(parts))] if name in stack_of else [name]
            read.empty.extend(label for label, part in zip(labels, parts) if not bool(part.any()))
        if name in stack_of:
            digests = read.digests[stack_of[name]] = read.digests[stack_of[name]] or [[] for _ in parts]
            for own, part in zip(digests, parts):
                own.append(_digest(part))
    return read


def _digest(tensor: Tensor) -> bytes:
    return blake2b(tensor.contiguous().view(-1).view(torch.uint8).numpy().data, digest_size=16).digest()


def _experts_differ(digests: Mapping[str, list[list[bytes]]]) -> Finding:
    """Two equal experts are one that costs twice; merged or copied ones that were not trained since are such."""
    if not digests:
        return does_not_apply("experts differ", WHERE, "there are no stacked experts")
    twins = []
    for name, experts in digests.items():
        first: dict[tuple[bytes, ...], int] = {}
        for e, own in enumerate(experts):
            other = first.setdefault(tuple(own), e)
            if other != e:
                twins.append(f"{other} and {e} of {name}")
    count = sum(map(len, digests.values()))
    return _of_names("experts differ", twins, f"{count} experts, no two equal", "equal experts:")


def _of_names(check: str, names: Sequence[str], good: str, bad: str, where: str = WHERE) -> Finding:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return Finding(check, where, f"{bad} {', '.join(names[:3])}{more}" if names else good, not names)
