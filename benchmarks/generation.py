"""Running a model of Mixtral's shape: tokens a second of one sequence, and of a prompt, against transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from decoders import DecoderShape, give_weights, our_decoder, quieten_transformers, their_mixtral
from harness import arguments, claim, must_agree, ratio, save, spread, take_turns
from torch import Tensor
from transformers import MixtralForCausalLM

from sparsemix.inference import generate
from sparsemix.models import Decoder

SHAPE = DecoderShape(1024, 1792, 8, 2, layers=8, heads=16, kv_heads=4, vocab=32_000, context=512)
TOY = DecoderShape(16, 24, 4, 2, layers=2, heads=4, kv_heads=2, vocab=50, context=64)
IMPLEMENTATIONS = ("grouped_mm", "eager", "batched_mm")
MEMORY = 2**30
"""Bytes that `batched_mm` may gather in one layer: it copies a whole expert for each edge."""
PROMPT, LONG_PROMPT, NEW = 16, 400, 32
TOLERANCE = 1e-3
"""Of logits, which are of the order of 1."""


class Theirs:
    """transformers' model under one of its ways to run experts; all share one model and its weights with ours."""

    def __init__(self, mixtral: MixtralForCausalLM, experts_implementation: str) -> None:
        self.mixtral, self.experts_implementation = mixtral, experts_implementation

    def new_tokens(self, prompt_1S: Tensor, count: int) -> Tensor:
        """Greedy, (count,)."""
        self.mixtral.set_experts_implementation(self.experts_implementation)
        mask_1S = torch.ones_like(prompt_1S)
        options = {"max_new_tokens": count, "do_sample": False}
        return self.mixtral.generate(prompt_1S, attention_mask=mask_1S, **options)[0, prompt_1S.shape[1] :]

    @torch.inference_mode()
    def last_logits(self, prompt_1S: Tensor) -> Tensor:
        """After the prompt, with its keys and values cached, (1, V)."""
        self.mixtral.set_experts_implementation(self.experts_implementation)
        return self.mixtral(prompt_1S, use_cache=True, logits_to_keep=1).logits[:, -1]


class Ours:
    """The decoder of this library."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder.eval()

    def new_tokens(self, prompt_1S: Tensor, count: int) -> Tensor:
        """Greedy, (count,)."""
        return torch.tensor(generate(self.decoder, prompt_1S.tolist(), max_new_tokens=count, temperature=0)[0])

    @torch.inference_mode()
    def last_logits(self, prompt_1S: Tensor) -> Tensor:
        """After the prompt, with its keys and values cached, (1, V)."""
        hidden_BSD = self.decoder(prompt_1S, cache=self.decoder.new_cache(1, prompt_1S.shape[1])).hidden_BSD
        return self.decoder.logits(hidden_BSD[:, -1])


Runner = Ours | Theirs


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both and write generation.json."""
    settings = arguments("Generation against transformers' Mixtral", argv, rounds=5)
    quieten_transformers()
    shape = TOY if settings.toy else SHAPE
    prompt, long_prompt, new = (4, 20, 6) if settings.toy else (PROMPT, LONG_PROMPT, NEW)
    generator = torch.Generator().manual_seed(0)
    long_1S = torch.randint(shape.vocab, (1, long_prompt), generator=generator)
    runners = build(shape)
    save(
        "generation",
        {
            "shape": shape._asdict(),
            "decode": decode(runners, long_1S[:, :prompt], new, settings.rounds),
            "prefill": prefill(fitting(runners, shape, long_prompt), long_1S, settings.rounds),
        },
        settings.out,
    )


def build(shape: DecoderShape) -> dict[str, Runner]:
    """Ours, and transformers' in each of its ways, over the same memory."""
    decoder, mixtral = our_decoder(shape), their_mixtral(shape, IMPLEMENTATIONS[0]).eval()
    give_weights(decoder, mixtral, share=True)
    theirs = {f"transformers {name}": Theirs(mixtral, name) for name in IMPLEMENTATIONS}
    return {"sparsemix": Ours(decoder), **theirs}


def fitting(runners: Mapping[str, Runner], shape: DecoderShape, num_tokens: int) -> dict[str, Runner]:
    """Those that do not gather more than fits for so many tokens at once."""
    gathers = 4 * num_tokens * shape.k * shape.expert_numbers > MEMORY
    return {name: one for name, one in runners.items() if not (gathers and name.endswith("batched_mm"))}


def decode(runners: Mapping[str, Runner], prompt_1S: Tensor, count: int, rounds: int) -> dict[str, Any]:
    """New tokens a second of one sequence, its short prompt included."""
    for name, runner in runners.items():
        must_agree(f"greedy tokens of {name}", [regret(runners, prompt_1S, runner, count)], [0.0], TOLERANCE)
    seconds = take_turns(
        {name: lambda one=one: one.new_tokens(prompt_1S, count) for name, one in runners.items()}, rounds
    )
    text = f"Mixtral's shape, one sequence, {count} tokens after {prompt_1S.shape[1]}, greedy: tokens/s"
    return compare(text, seconds, count, at_least=2.0)


def regret(runners: Mapping[str, Runner], prompt_1S: Tensor, runner: Runner, count: int) -> float:
    """How much less likely than the likeliest its tokens are by transformers' logits; 0 but for ties and rounding."""
    new_1S = runner.new_tokens(prompt_1S, count)[None]
    judge = next(one for one in runners.values() if isinstance(one, Theirs))
    with torch.inference_mode():
        logits_SV = judge.mixtral(torch.cat((prompt_1S, new_1S), dim=1)).logits[0, prompt_1S.shape[1] - 1 : -1]
    return (logits_SV.amax(1) - logits_SV.gather(1, new_1S.T)[:, 0]).max().item()


def prefill(runners: Mapping[str, Runner], prompt_1S: Tensor, rounds: int) -> dict[str, Any]:
    """Tokens a second of a long prompt: logits after its end, keys and values cached."""
    expected = runners["sparsemix"].last_logits(prompt_1S).flatten().tolist()
    for name, runner in runners.items():
        must_agree(f"logits of {name}", runner.last_logits(prompt_1S).flatten().tolist(), expected, TOLERANCE)
    calls: dict[str, Callable[[], object]] = {
        name: lambda one=one: one.last_logits(prompt_1S) for name, one in runners.items()
    }
    seconds = take_turns(calls, 2 * rounds)
    length = prompt_1S.shape[1]
    return compare(f"Mixtral's shape, prompt of {length} tokens: tokens/s", seconds, length, at_least=1.2)


def compare(text: str, seconds: Mapping[str, Sequence[float]], count: int, at_least: float) -> dict[str, Any]:
    """Tokens a second of each, and ours over the fastest other."""
    speeds = {name: spread([count / taken for taken in found]) for name, found in seconds.items()}
    others = {name: found["median"] for name, found in speeds.items() if name != "sparsemix"}
    fastest = max(others, key=lambda name: others[name])
    found = ratio(seconds[fastest], seconds["sparsemix"])
    return {"tokens_per_second": speeds, **claim(f"{text} over {fastest}", found, at_least=at_least)}


if __name__ == "__main__":
    main()
