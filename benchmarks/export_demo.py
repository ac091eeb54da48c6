"""The demo's model in transformers and in llama.cpp: the same greedy tokens, and how close the closest call was."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from decoders import quieten_transformers
from green import ROOT
from harness import claim, save
from llama import ask
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparsemix.data import Tokenizer
from sparsemix.inference import generate
from sparsemix.interop import StoredModel, build, export_model, open_model
from sparsemix.interop.export import Format
from sparsemix.interop.gguf import write_gguf
from sparsemix.interop.hf_model import register
from sparsemix.models import Decoder

TEXTS = ("def __init__(self", "import os\n", "The function returns", 'class Parser:\n    """', "for i in range(")
NEW = 50

Continue = Callable[[list[int]], list[int]]
"""A prompt -> the tokens that follow it greedily."""


def main(argv: Sequence[str] | None = None) -> None:
    """Export, let each continue the prompts, and write export_demo.json."""
    parser = argparse.ArgumentParser(description="A trained model in transformers and in llama.cpp, against ours")
    parser.add_argument("run", type=Path, help="folder of a run, as `sparsemix demo` leaves one in runs/demo/moe")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the result")
    settings = parser.parse_args(argv)
    quieten_transformers()
    model, decoder = open_model(settings.run), build(open_model(settings.run)).eval()
    prompts = [Tokenizer.load(settings.run / "tokenizer.json").encode(text) for text in TEXTS]
    ours = generate(decoder, prompts, max_new_tokens=NEW, temperature=0)
    with TemporaryDirectory() as folder:
        others = {
            "transformers": in_transformers(model, Path(folder) / "exported", "auto"),
            "transformers, our own format": in_transformers(model, Path(folder) / "ours", "sparsemix"),
            "llama.cpp": in_llama_cpp(model, Path(folder) / "exported.gguf"),
        }
        continued = {name: [others[name](prompt) for prompt in prompts] for name in others}
    margins = [margin(decoder, prompt, tokens) for prompt, tokens in zip(prompts, ours, strict=True)]
    save("export_demo", result(model, ours, continued, margins), settings.out)


def in_transformers(model: StoredModel, out: Path, format: Format) -> Continue:
    """Exported, loaded and continued there, fed token ids."""
    print(f"exported as {export_model(model, out, format)}")
    register()
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)

    def go_on(prompt: list[int]) -> list[int]:
        prompt_1S = torch.tensor([prompt])
        options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None}
        return theirs.generate(prompt_1S, attention_mask=torch.ones_like(prompt_1S), **options)[
            0, len(prompt) :
        ].tolist()

    return go_on


def in_llama_cpp(model: StoredModel, out: Path) -> Continue:
    """The same in a process of llama.cpp's."""
    write_gguf(model, out)
    return lambda prompt: ask(out, prompts=[prompt], new_tokens=NEW)["runs"][0]["tokens"]


@torch.inference_mode()
def margin(decoder: Decoder, prompt: list[int], tokens: list[int]) -> float:
    """How far the likeliest token's logit was ahead of the second's where they were closest."""
    hidden_BSD = decoder(torch.tensor([prompt + tokens])).hidden_BSD
    best: Tensor = decoder.logits(hidden_BSD)[0, len(prompt) - 1 : -1].topk(2).values
    return (best[:, 0] - best[:, 1]).min().item()


def result(
    model: StoredModel, ours: list[list[int]], continued: dict[str, list[list[int]]], margins: list[float]
) -> dict[str, Any]:
    """The claims, and what they rest on."""
    same = {name: sum(a == b for a, b in zip(ours, theirs, strict=True)) for name, theirs in continued.items()}
    text = f"prompts of {len(ours)} that {{}} continues by the same {NEW} greedy tokens"
    return {
        "steps": model.facts["steps"],
        "texts": TEXTS,
        "margins": margins,
        "claims": [
            *(claim(text.format(name), {"median": count}, at_least=len(ours)) for name, count in same.items()),
            claim("smallest lead of the likeliest token, in logits", {"median": min(margins)}),
        ],
    }


if __name__ == "__main__":
    main()
