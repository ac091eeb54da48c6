"""Which back end serves, and what is said when the one asked for cannot."""

import pytest
import torch

from sparsemix import GLUExpertsConfig, MoEConfig
from sparsemix.kernels import Custom, ExpertWeights, choose_backend, cpp, cpu, native, triton
from sparsemix.kernels.cpp.library import library


def tensors(dim: int, hidden: int, dtype: torch.dtype = torch.float32):
    up, down = torch.zeros(2, 2 * hidden, dim, dtype=dtype), torch.zeros(2, dim, hidden, dtype=dtype)
    return torch.zeros(3, dim, dtype=dtype), ExpertWeights(up, down)


def test_auto_is_compiled_code_for_float32_and_any_is_had_where_asked_for():
    double = tensors(4, 4, torch.float64)
    assert choose_backend("auto", *double) == ("cpu", "cpp refuses the type torch.float64", cpu)
    if library().functions:
        assert choose_backend("auto", *tensors(4, 4)) == ("cpp", "float32 on a CPU", cpp)
        assert choose_backend("cpp", *tensors(4, 4)) == ("cpp", "the config asks for it", cpp)
    with pytest.raises(
        ValueError, match=r"^backend: cpp must be able .* got the type torch\.float64; use backend='auto'$"
    ):
        choose_backend("cpp", *double)
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


def test_functions_of_pytorch_go_where_pytorch_is_called_between_the_products():
    swiglu = Custom(lambda h: h[:, :4].sigmoid() * h[:, 4:], width=2)
    assert choose_backend("auto", *tensors(4, 4), swiglu).name == "cpu"
    for name in ("cpu", "native", "reference"):
        assert choose_backend(name, *tensors(4, 4), swiglu).name == name
    for name in ("cpp", "triton"):
        with pytest.raises(ValueError, match=rf"^backend: {name} must .* got an activation that is a function of Py"):
            choose_backend(name, *tensors(4, 4), swiglu)


def test_a_layer_asked_for_native_does_not_fall_back_silently():
    experts = GLUExpertsConfig(hidden=3, backend="native")
    with pytest.raises(ValueError, match=r"^backend: native must be able"):
        MoEConfig(num_experts=2, experts=experts).build(4)(torch.randn(2, 4))


def test_triton_where_it_is_asked_for_and_can_serve():
    backend = pytest.importorskip("sparsemix.kernels.triton.backend")
    assert choose_backend("triton", *tensors(5, 3)) == ("triton", "the config asks for it", backend)
    with pytest.raises(ValueError, match=r"^backend: triton must be able .*dtype torch\.float64; use backend='auto'$"):
        choose_backend("triton", *tensors(4, 4, torch.float64))


def test_triton_needs_triton(monkeypatch):
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^backend: triton must .*an installation without triton"):
        choose_backend("triton", *tensors(4, 4))


def test_a_layer_by_triton_is_the_layer_by_the_cpu():
    pytest.importorskip("triton")
    layers = [
        MoEConfig(num_experts=3, experts=GLUExpertsConfig(hidden=5, backend=backend)).build(4)
        for backend in ("triton", "cpu")
    ]
    layers[0].load_state_dict(layers[1].state_dict())
    x_TD = torch.randn(7, 4)
    found = []
    for moe in layers:
        y_TD, _ = moe(x_TD)
        y_TD.square().sum().backward()
        found.append([y_TD.detach(), *(parameter.grad for parameter in moe.parameters())])
    for actual, expected in zip(*found):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
