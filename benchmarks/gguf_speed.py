"""Decoding the demo's model, one sequence: ours, and llama.cpp's from float32 and from Q8_0 files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import torch
from harness import arguments, claim, must_agree, ratio, save, spread
from llama import ask

from sparsemix.inference import generate
from sparsemix.interop.gguf import write_gguf
from sparsemix.interop.stored import StoredModel
from sparsemix.models import Decoder
from sparsemix.recipes.demo import TRAINING
from sparsemix.tensors import Held

PROMPT, NEW, NEW_TOY = 16, 200, 5
TOLERANCE = 1e-4
"""Of float32 logits, which are of the order of 1."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all three and write gguf_speed.json; weights are random, which makes no difference to the time."""
    settings = arguments("Decoding in llama.cpp against ours", argv, rounds=7)
    new = NEW_TOY if settings.toy else NEW
    decoder = TRAINING.model.build().eval()
    prompt = torch.randint(TRAINING.model.vocab_size, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        exact, narrow = (written(decoder, Path(folder), dtype) for dtype in ("float32", "q8_0"))
        (found,) = ask(exact, prompts=[prompt], new_tokens=1)["runs"]
        with torch.inference_mode():
            ours = decoder.logits(decoder(torch.tensor([prompt])).hidden_BSD)[0, -1]
        must_agree("logits of llama.cpp", found["logits"][-1], ours.tolist(), TOLERANCE)
        request = {"prompts": [prompt], "new_tokens": new, "threads": settings.threads}
        contestants = {
            "sparsemix": lambda: decoded(decoder, prompt, new),
            "llama.cpp float32": lambda: ask(exact, **request)["runs"][0]["seconds"],
            "llama.cpp q8_0": lambda: ask(narrow, **request)["runs"][0]["seconds"],
        }
        seconds = by_turns(contestants, settings.rounds)
    speeds = {name: spread([new / one for one in taken]) for name, taken in seconds.items()}
    first, *others = contestants
    text = f"The demo's model, one sequence, {new} tokens greedy: tokens/s of ours over"
    claims = [claim(f"{text} {name}", ratio(seconds[name], seconds[first])) for name in others]
    text = "The same in llama.cpp: tokens/s of Q8_0 over float32"
    claims.append(claim(text, ratio(seconds[others[0]], seconds[others[1]])))
    save("gguf_speed", {"tokens_per_second": speeds, "claims": claims}, settings.out)


def written(decoder: Decoder, folder: Path, dtype: str) -> Path:
    """A file of this type."""
    path = folder / f"{dtype}.gguf"
    write_gguf(StoredModel(decoder.config, Held(decoder.state_dict()), "sparsemix"), path, dtype)
    return path


def decoded(decoder: Decoder, prompt: list[int], new: int) -> float:
    """Seconds of the new tokens; the prompt's are taken off by a run for one token."""
    began = perf_counter()
    generate(decoder, [prompt], max_new_tokens=1, temperature=0)
    middle = perf_counter()
    generate(decoder, [prompt], max_new_tokens=new + 1, temperature=0)
    return perf_counter() - middle - (middle - began)


def by_turns(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each says its seconds were, A B C, C B A, ...; after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(-1, rounds):
        for name in list(contestants)[:: 1 if index % 2 else -1]:
            taken = contestants[name]()
            if index >= 0:
                seconds[name].append(taken)
    return seconds


if __name__ == "__main__":
    main()
