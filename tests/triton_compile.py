"""Compile each kernel that one forward and backward launches, for a GPU that need not be there; print what it takes.

Run by `kernels/test_triton_compile.py` in a process of its own, since the interpreter must be off:
`python tests/triton_compile.py cuda:90:32 gated bfloat16 [all]`. Nothing is launched: the arguments are recorded, and
Triton compiles for them as it would at a launch. Without `all`, only the first tiling of each kernel.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from cases import numbers
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction
from triton_cases import ALL, activation_of, random_routing, random_weights

from sparsemix.kernels.triton.backend import backward, forward
from sparsemix.routing import sort_by_expert

KINDS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def source_of(kernel: JITFunction, arguments: dict[str, Any]) -> ASTSource:
    """What a launch with these arguments compiles: sizes that are 1 or multiples of 16 are known to be."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = KINDS[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None or value == 1:
            signature[parameter.name], constants[(index,)] = "constexpr", value
        else:
            signature[parameter.name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def main(target: str, form: str, dtype: str, tilings: str = "first") -> None:
    backend, architecture, warp = target.split(":")
    target_ = GPUTarget(backend, int(architecture) if architecture.isdigit() else architecture, int(warp))
    seen = set()

    def compile_once(kernel: JITFunction, args: tuple, options: dict[str, Any], keywords: dict[str, Any]) -> None:
        arguments = dict(zip(kernel.arg_names, args)) | keywords
        source = source_of(kernel, {name: arguments[name] for name in kernel.arg_names})
        if (source.hash(), str(options)) in seen:
            return
        seen.add((source.hash(), str(options)))
        compiled = triton.compile(source, target=target_, options=options)
        print(kernel.fn.__name__, {n: v for n, v in keywords.items() if "BLOCK" in n}, options, end=" ")
        print("shared", compiled.metadata.shared, flush=True)

    def launch(kernel: JITFunction, *args: Any, grid: Any, warmup: bool = False, **keywords: Any) -> None:
        options = {name: keywords.pop(name) for name in ("num_warps", "num_stages") if name in keywords}
        compile_once(kernel, args, options, keywords)

    def launch_tuned(tuner: Autotuner, *args: Any, **keywords: Any) -> None:
        tuner.nargs = dict(zip(tuner.arg_names, args))
        configs = tuner.prune_configs(keywords)
        for config in configs if tilings == "all" else configs[:1]:
            tuner.fn.run(*args, **keywords, **config.all_kwargs())

    JITFunction.run, Autotuner.run = launch, launch_tuned
    kind = getattr(torch, dtype)
    dispatch = sort_by_expert(random_routing(4096, 4, 2), 4)
    weights, activation = random_weights(form, 4, 256, 512, kind), activation_of(form, "silu")
    x_TD = numbers(0, 4096, 256).to(kind)
    _, saved = forward(x_TD, dispatch, weights, activation)
    backward(x_TD, x_TD, saved, dispatch, weights, activation, ALL)


if __name__ == "__main__":
    main(*sys.argv[1:])
