"""`sparsemix export`: a run becomes a folder or a file that other programs load."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from sparsemix.interop import open_model
from sparsemix.train import load_run


def test_a_run_becomes_a_folder_without_what_only_training_needs(trained, sparsemix):
    answer = sparsemix("export", trained.run, "--out", "out")
    assert answer.code == 0
    run = load_run(trained.run)
    count = sum(parameter.numel() for parameter in run.model.parameters())
    assert answer.out.startswith(f"out: mixtral, {count:,} parameters, ")
    assert {path.name for path in Path("out").iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "README.md"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    with safe_open("out/model.safetensors", "pt") as file:
        assert sum(file.get_tensor(name).numel() for name in file.keys()) == count  # noqa: SIM118
    back = open_model(Path("out"))
    assert all(back.tensors.read(name).equal(tensor) for name, tensor in run.model.state_dict().items())


def test_our_own_format_in_another_dtype(trained, sparsemix):
    assert sparsemix("export", trained.run, "--out", "out", "--format", "sparsemix", "--dtype", "bfloat16").code == 0
    with safe_open("out/model.safetensors", "pt") as file:
        assert str(file.get_tensor("embedding.weight").dtype) == "torch.bfloat16"
    assert open_model(Path("out")).facts["steps"] == 6


def test_a_file_for_llama_cpp(trained, sparsemix):
    pytest.importorskip("gguf")
    answer = sparsemix("export", trained.run, "--out", "model.gguf", "--format", "gguf", "--dtype", "float16")
    assert answer.code == 0
    assert answer.out.startswith("model.gguf: gguf in float16, ")
    assert Path("model.gguf").read_bytes()[:4] == b"GGUF"


def test_a_file_for_llama_cpp_without_a_tokenizer_says_so(trained, sparsemix):
    pytest.importorskip("gguf")
    sparsemix("export", trained.run, "--out", "out")
    Path("out/tokenizer.json").unlink()
    answer = sparsemix("export", "out", "--out", "model.gguf", "--format", "gguf")
    assert answer.out.startswith("model.gguf: gguf in float32 without a tokenizer, for token ids only, ")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--format", "gguf", "--dtype", "bfloat16"], "dtype: must be float32, float16 or q8_0 for gguf"),
        (["--dtype", "q8_0"], "dtype: must be float32, bfloat16 or float16 in a folder"),
        (["--format", "other"], "--format: must be one of"),
    ],
)
def test_what_is_refused(trained, sparsemix, no_traceback_of, flags, complaint):
    answer = sparsemix("export", trained.run, "--out", "out", *flags)
    assert answer.code == 2
    no_traceback_of(answer, complaint)
    assert not Path("out").exists()


def test_what_is_there_already_stays(trained, sparsemix, no_traceback_of):
    answer = sparsemix("export", trained.run, "--out", trained.run)
    assert answer.code == 2
    no_traceback_of(answer, "out: must be a new or an empty folder")
    assert load_run(trained.run).step == 6
