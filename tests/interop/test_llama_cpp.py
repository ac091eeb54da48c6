"""llama.cpp computes what our decoder does: built by `make test-slow`, it runs GGUF files in a process of its own."""

import dataclasses
import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from interop.gguf_cases import FFN, TWINS, decoder, grouped, twin
from interop.twins import CONFIGS, YARN, prompts, save
from interop.twins import twin as their_twin
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.llama import CHILD, PYTHON, ask
from sparsemix.data import BPETokenizerConfig, ByteTokenizerConfig
from sparsemix.inference import generate
from sparsemix.interop import open_model
from sparsemix.interop.gguf import write_gguf
from sparsemix.interop.gguf.words import KNOWN
from sparsemix.interop.stored import StoredModel
from sparsemix.recipes.demo import TRAINING
from sparsemix.tensors import Held
from sparsemix.train import load_run, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.llama_cpp,
    pytest.mark.skipif(not PYTHON.exists(), reason="needs llama.cpp; run: make test-slow"),
]

ROOT = Path(__file__).parents[2]
TEXTS = (
    "Hello, world! It's 2024, isn't it? I'LL say'D so",
    "  leading   spaces\n\n\ttabs\r\n trailing   ",
    "naïve café 日本語テキスト ひらがな 12345 ٣٤٥ ½ x²",
    "👩‍👩‍👧 🏳️‍🌈\u00a0wide\u2003spaces\u200d here",
    "def f(x):\n    return x**2  # ok\n\n\n<|end|> is plain text here",
    "HelloWorld fooBAR __init__ /usr/lib//\nÀÉÎ ß ﬁ İ",
    "",
)


def logits_of(model: StoredModel, tokens: list[int]) -> torch.Tensor:
    built = model.config.build().eval()
    built.load_state_dict({name: model.tensors.read(name) for name in model.tensors.specs})
    with torch.inference_mode():
        return built.logits(built(torch.tensor([tokens])).hidden_BSD)[0]


def check_greedy(model: StoredModel, prompt: list[int], run: dict[str, Any], tolerance: float) -> float:
    """Logits are close, each token is our likeliest one, and how far ahead of the second the closest call was."""
    logits = logits_of(model, prompt + run["tokens"])
    torch.testing.assert_close(torch.tensor(run["logits"]), logits[: len(prompt)], rtol=0, atol=tolerance)
    best = logits[len(prompt) - 1 : -1].topk(2)
    assert best.indices[:, 0].tolist() == run["tokens"]
    return (best.values[:, 0] - best.values[:, 1]).min().item()


@pytest.mark.parametrize("name", TWINS)
def test_every_architecture_gives_our_logits_and_greedy_tokens(name, tmp_path):
    model = twin(TWINS[name])
    write_gguf(model, tmp_path / "model.gguf")
    prompt = torch.randint(160, (20,), generator=torch.Generator().manual_seed(2)).tolist()
    (run,) = ask(tmp_path / "model.gguf", prompts=[prompt], new_tokens=40)["runs"]
    assert check_greedy(model, prompt, run, tolerance=1e-4) > 0


AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "qwen2_moe": {"mlp_only_layers": []},
    "qwen3_moe": {"decoder_sparse_step": 1, "attention_bias": False},
    "olmoe": {"num_key_value_heads": 4, "attention_bias": False},
    "deepseek_v2 lite": {},
    "deepseek_v3": {},
    "gpt_oss": {"swiglu_limit": 7.0, "rope_parameters": YARN},
    "granitemoe": {},
    "llama": {"mlp_bias": False},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "layer_types": ["full_attention"] * 3},
    "qwen3": {},
}
"""Twins of transformers' without what llama.cpp does not know."""


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_a_hugging_face_model_comes_through_with_the_logits_of_transformers(name, tmp_path, monkeypatch):
    config = CONFIGS[name]()
    monkeypatch.setitem(CONFIGS, name, lambda: type(config)(**config.to_dict() | AS_PUBLISHED[name]))
    model = their_twin(name)
    write_gguf(open_model(save(model, tmp_path / "theirs")), tmp_path / "model.gguf")
    prompt = prompts()[0, :20].tolist()
    (run,) = ask(tmp_path / "model.gguf", prompts=[prompt], new_tokens=30)["runs"]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + run["tokens"]])).logits[0]
    torch.testing.assert_close(torch.tensor(run["logits"]), logits[:20], rtol=0, atol=1e-4)
    assert logits[19:-1].argmax(-1).tolist() == run["tokens"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The demo's model after some steps on our own code: the run, and the model as it is stored."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    data = dataclasses.replace(TRAINING.data, sources=(str(ROOT / "sparsemix"),))
    train(dataclasses.replace(TRAINING, data=data, steps=60, evaluate_every=60), folder)
    run = load_run(folder)
    tokenizer = folder / "tokenizer.json"
    model = StoredModel(run.config.model, Held(run.model.state_dict()), "sparsemix", (tokenizer,))
    return run, model


def test_a_trained_model_continues_as_ours_does(trained, tmp_path, capsys):
    run, model = trained
    texts = ["def forward(self, x):", "import os\nimport", "The list of", "    return", "class Test"]
    prompts = [run.tokenizer.encode(text) for text in texts]
    write_gguf(model, tmp_path / "model.gguf")
    found = ask(tmp_path / "model.gguf", prompts=prompts, new_tokens=50, texts=texts)
    assert found["ids"] == prompts
    margins = []
    for prompt, one in zip(prompts, found["runs"]):
        margins.append(check_greedy(model, prompt, one, tolerance=1e-3))
        assert generate(run.model, [prompt], max_new_tokens=50, temperature=0)[0] == one["tokens"]
    with capsys.disabled():
        print(f"\nllama.cpp continues {len(prompts)} prompts as we do; smallest top-2 margin {min(margins):.2g}")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.01), ("q8_0", 0.1)])
def test_narrow_types_load_and_decode_nearly_the_same(dtype, tolerance, trained, tmp_path):
    run, model = trained
    write_gguf(model, tmp_path / "model.gguf", dtype)
    prompt = run.tokenizer.encode("def forward(self, x):")
    (found,) = ask(tmp_path / "model.gguf", prompts=[prompt], new_tokens=50)["runs"]
    assert len(found["tokens"]) == 50
    error = torch.tensor(found["logits"]) - logits_of(model, prompt)
    assert error.abs().median() < tolerance  # not the largest: a token whose experts are nearly tied may change one


def with_words(words) -> Tokenizer:
    """A tokenizer of these words that has learnt the texts."""
    model = Tokenizer(models.BPE(ignore_merges=words.whole_first))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in words.patterns]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.pre_tokenizer, model.decoder = pre_tokenizers.Sequence([*cuts, last]), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator([*TEXTS, CHILD.read_text()] * 2, trainer)
    model.add_special_tokens(["<|end|>"])
    model.encode_special_tokens = True
    return model


TOKENIZERS = {words.name: words for words in KNOWN} | {
    "our bytes": ByteTokenizerConfig(),
    "our BPE": BPETokenizerConfig(vocab_size=600),
}


@pytest.mark.filterwarnings("ignore:.*combining marks")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_text_becomes_the_same_tokens(name, tmp_path):
    kind = TOKENIZERS[name]
    ours = isinstance(kind, ByteTokenizerConfig | BPETokenizerConfig)
    tokenizer = kind.build([*TEXTS, CHILD.read_text()]).model if ours else with_words(kind)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = twin(decoder(grouped(), ffn=FFN, vocab_size=tokenizer.get_vocab_size() + 3))
    write_gguf(model._replace(files=(tmp_path / "tokenizer.json",)), tmp_path / "model.gguf")
    texts = [*TEXTS, *nonsense(200)]
    found = ask(tmp_path / "model.gguf", texts=texts)["ids"]
    for text, ids in zip(texts, found):
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids, text


def test_the_benchmark_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    arguments = ["--toy", "--rounds", "2", "--threads", "1", "--out", str(tmp_path)]
    importlib.import_module("gguf_speed").main(arguments)
    found = json.loads((tmp_path / "gguf_speed.json").read_text())
    assert set(found["tokens_per_second"]) == {"sparsemix", "llama.cpp float32", "llama.cpp q8_0"}
    assert len(found["claims"]) == 3


def nonsense(count: int) -> list[str]:
    """Texts of letters, digits, marks, spaces and suffixes in any order."""
    parts = (
        "a",
        "Zb",
        "é",
        "ß",
        "日",
        "か",
        "7",
        "٣",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "'s",
        "'LL",
        ".",
        "_",
        "$",
        "😀",
        "\u00a0",
    )
    chosen = random.Random(0)
    return ["".join(chosen.choices(parts, k=chosen.randrange(1, 25))) for _ in range(count)]
