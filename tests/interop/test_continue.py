"""A Hugging Face folder goes on here: trained further, evaluated, continued and described, with its own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from interop.twins import save, transformers

from sparsemix.cli import main
from sparsemix.data import BPETokenizerConfig, Tokenizer
from sparsemix.interop import build, open_model, tokenizer_of
from sparsemix.train import load_run

END = "<|endoftext|>"
TEXT = "the router sends each token to a few experts, and an expert is a small network. " * 40
SHORT = [
    *("--steps", "2", "--batch-size", "2", "--sequence-length", "16", "--eval-tokens", "64", "--data.held-out", "0.1"),
    *("--evaluate-every", "2", "--checkpoint-every", "1", "--optimizer.dtype", "float32"),
]


def tokenizer(folder: Path) -> None:
    """One that this package did not make: its end of a document has another name."""
    ours = BPETokenizerConfig(vocab_size=280).build([TEXT])
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=ours.model, eos_token=END)
    wrapped.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = transformers.Qwen3MoeConfig(
        vocab_size=300,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=16,
        moe_intermediate_size=8,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=48,
        bos_token_id=None,
        eos_token_id=280,
    )
    torch.manual_seed(0)
    path = save(transformers.AutoModelForCausalLM.from_config(config), tmp_path_factory.mktemp("theirs"))
    tokenizer(path)
    for number in range(12):
        (path / "text").mkdir(exist_ok=True)
        (path / "text" / f"{number}.txt").write_text(TEXT)
    return path


def test_training_goes_on_with_its_weights_and_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    out, theirs = tmp_path / "run", open_model(folder)
    still = ["--optimizer.lr", "1e-9"]
    assert (
        main(["train", "--init", str(folder), "--out", str(out), "--data", str(folder / "text"), *SHORT, *still]) == 0
    )
    run = load_run(out)
    assert run.config.model == theirs.config
    assert (run.tokenizer.end, run.tokenizer.end_id) == (END, 280)
    assert run.tokenizer.fingerprint == tokenizer_of(theirs).fingerprint
    before = build(theirs).state_dict()
    for name, tensor in run.model.state_dict().items():
        if name.endswith(("query.weight", "gate_up_EFD")):  # matrices, which that learning rate does not move
            torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)
    assert open_model(out).facts["special_tokens"] == {"eos_token_id": 280}


def test_a_run_that_began_with_it_goes_on_without_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["train", "--init", str(folder), "--out", str(out), "--data", str(folder / "text"), *SHORT]) == 0
    assert json.loads((out / "run.json").read_text())["init"] == {"model": str(folder.resolve())}
    document = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(document | {"steps": 4}))
    assert main(["train", "--out", str(out), "--resume"]) == 0
    assert load_run(out).step == 4
    assert load_run(out).tokenizer.end == END


def test_it_is_continued_evaluated_and_described(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(folder), "--prompt", "the", "--max-new-tokens", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["prompt"] == "the"
    assert main(["eval", str(folder), "--data", str(folder / "text"), "--eval-tokens", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] is None
    assert found["loss"] > 0
    assert main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["family"] == "qwen3_moe"
    assert facts["parameters_total"] == sum(p.numel() for p in build(open_model(folder)).parameters())


def test_a_model_has_no_held_out_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(folder)]) == 2
    assert capsys.readouterr().err.startswith("error: data: must be given for a model that is no run, got none;")


def test_without_a_tokenizer_it_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.glob("*.*"):
        if "token" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["generate", str(tmp_path), "--prompt", "the"]) == 2
    assert "tokenizer: must be in the model's folder, as tokenizer.json, got none" in capsys.readouterr().err


def test_a_tokenizer_that_is_not_of_bytes_is_refused(folder: Path, tmp_path: Path) -> None:
    model = Tokenizer.load(folder / "tokenizer.json").model
    document = json.loads(model.to_str()) | {"decoder": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="tokenizer: must be byte-level, got a tokenizer with decoder NoneType"):
        Tokenizer.load(tmp_path / "tokenizer.json", END)
