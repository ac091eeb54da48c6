"""Which back end serves, and what is said when the one asked for cannot."""

import pytest
import torch

from sparsemix import GLUExpertsConfig, MoEConfig
from sparsemix.kernels import ExpertWeights, choose_backend, cpu, native


def tensors(dim: int, hidden: int, dtype: torch.dtype = torch.float32):
    up, down = torch.zeros(2, 2 * hidden, dim, dtype=dtype), torch.zeros(2, dim, hidden, dtype=dtype)
    return torch.zeros(3, dim, dtype=dtype), ExpertWeights(up, down)


def test_auto_is_cpu_here_and_native_where_asked_for():
    assert choose_backend("auto", *tensors(4, 4)) == ("cpu", "the device is cpu", cpu)
    assert choose_backend("cpu", *tensors(4, 4)).ops is cpu
    assert choose_backend("native", *tensors(4, 4)).ops is native.BACKEND
    assert choose_backend("native", *tensors(8, 8, torch.bfloat16)).ops is native.BACKEND
    assert choose_backend("reference", *tensors(4, 4)) == ("reference", "the config asks for it", None)


@pytest.mark.parametrize(
    ("dim", "hidden", "dtype", "seen"),
    [
        (4, 4, torch.float64, "dtype torch.float64"),
        (6, 4, torch.float32, "16 bytes"),
        (4, 6, torch.float32, "16 bytes"),
        (8, 4, torch.bfloat16, "16 bytes"),
    ],
)
def test_native_says_why_it_cannot_serve(dim, hidden, dtype, seen):
    with pytest.raises(ValueError, match=f"^backend: .*{seen}.*; use backend='auto'$"):
        choose_backend("native", *tensors(dim, hidden, dtype))


def test_a_layer_asked_for_native_does_not_fall_back_silently():
    experts = GLUExpertsConfig(hidden=3, backend="native")
    with pytest.raises(ValueError, match=r"^backend: native must be able"):
        MoEConfig(num_experts=2, experts=experts).build(4)(torch.randn(2, 4))
