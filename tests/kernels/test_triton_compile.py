"""The Triton kernels compile for the GPUs they are meant for, which the interpreter does not show."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda:80:32", "cuda:90:32", "hip:gfx942:64"])
@pytest.mark.parametrize(
    ("form", "dtype"), [("gated_biased", "bfloat16"), ("biased", "float32"), ("gated_clamped_biased", "bfloat16")]
)
def test_every_kernel_compiles(target, form, dtype, tmp_path):
    environment = dict(os.environ, TRITON_CACHE_DIR=str(tmp_path), PYTHONPATH=f"{TESTS.parent}{os.pathsep}{TESTS}")
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(TESTS / "triton_compile.py"), target, form, dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = {line.split()[0] for line in done.stdout.splitlines()}
    assert kernels == {
        "_schedule_kernel",
        "_up_kernel",
        "_grouped_matmul_kernel",
        "_hidden_gradient_kernel",
        "_weight_gradient_kernel",
        "_combine_kernel",
        "_sum_rows_kernel",
        "_dot_with_bias_kernel",
    }
