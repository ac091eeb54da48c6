import pytest
import torch

from sparsemix.train import Precision, choose_precision
from sparsemix.train import precision as module


def test_a_cpu_computes_in_float32_unless_asked():
    assert choose_precision("cpu") == choose_precision("cpu", "float32") == Precision(torch.device("cpu"), None)
    assert choose_precision("cpu", "bfloat16") == Precision(torch.device("cpu"), torch.bfloat16)


def test_auto_is_what_torch_finds(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert choose_precision().device == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    for native, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert choose_precision() == Precision(torch.device("cuda"), expected)


@pytest.mark.parametrize("name", ["cuda:99", "nonsense", "cpu:x"])
def test_a_device_that_is_not_there_is_one_line(name):
    with pytest.raises(ValueError, match=r"^device: must be one that torch can use, got '.*' \(.*\); use auto or cpu$"):
        choose_precision(name)


def test_a_dtype_that_the_device_cannot_is_one_line(monkeypatch):
    monkeypatch.setattr(module, "_multiplies", lambda device, dtype: False)
    with pytest.raises(
        ValueError, match="dtype: must be one that the device computes in, got bfloat16 on cpu; use float32"
    ):
        choose_precision("cpu", "bfloat16")


def test_autocast_only_where_asked():
    one = torch.ones(2, 2)
    with Precision().scope():
        assert (one @ one).dtype == torch.float32
    with Precision(autocast=torch.bfloat16).scope():
        assert (one @ one).dtype == torch.bfloat16


@pytest.mark.parametrize(("found", "expected"), [({"avx512_bf16": True}, True), ({"avx2": True}, False), ({}, False)])
def test_native_bfloat16_is_asked_of_the_cpu(monkeypatch, found, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert module.multiplies_bfloat16(torch.device("cpu")) is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert module.multiplies_bfloat16(torch.device("cpu")) is False
