"""Whether the tensors that are there are those that there should be: each one, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch

from sparsemix.checks import check
from sparsemix.tensors import Spec

NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
REMEDY = "get the model anew, or correct its config"


def check_tensors(found: Mapping[str, Spec], expected: Mapping[str, Spec], source: str) -> None:
    """Compare names, shapes and dtypes.

    Any floating-point dtype will do, if all tensors have the same one; some, as those of routers, may be float32 beside
    narrower ones.

    Raises:
        ValueError: a tensor is missing, of no use, or of a wrong shape or dtype; names it.
    """
    extra = [name for name in found if name not in expected]
    for name in expected:
        seen = f"none, but {extra[0]}, of which the config knows nothing" if extra else "none"
        check(name in found, f"{source}: {name}", "must be there", seen, REMEDY)
    for name in found:
        rule = "must have a place in the model of this config"
        check(name in expected, f"{source}: {name}", rule, "an extra tensor", REMEDY)
    for name, spec in expected.items():
        rule = f"must have shape {list(spec.shape)}, as the config says"
        check(found[name].shape == spec.shape, f"{source}: {name}", rule, list(found[name].shape), REMEDY)
        fits = found[name].dtype in (NUMBERS if spec.dtype.is_floating_point else (spec.dtype,))
        wanted = "floating-point numbers" if spec.dtype.is_floating_point else str(spec.dtype)
        check(fits, f"{source}: {name}", f"must be {wanted}", found[name].dtype, "convert the model, or get it anew")
    _check_one_dtype({name: found[name] for name in expected if expected[name].dtype.is_floating_point}, source)


def _check_one_dtype(specs: Mapping[str, Spec], source: str) -> None:
    narrow = {name: spec.dtype for name, spec in specs.items() if spec.dtype != torch.float32}
    for usual, _ in Counter(narrow.values()).most_common(1):
        for name, dtype in narrow.items():
            check(dtype == usual, f"{source}: {name}", f"must be {usual} or float32, as the others", dtype, REMEDY)
