"""Runs in an environment of its own, with llama-cpp-python and no sparsemix: one GGUF file, as asked on stdin."""

import json
import sys
import time
from typing import Any

import llama_cpp
from llama_cpp import Llama

AS_THE_FILE_SAYS = -1.0  # the binding's own defaults would take the place of what the file says of YaRN


def load(path: str, threads: int) -> Llama:
    return Llama(
        path,
        n_ctx=256,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        swa_full=True,
        yarn_attn_factor=AS_THE_FILE_SAYS,
        yarn_beta_fast=AS_THE_FILE_SAYS,
        yarn_beta_slow=AS_THE_FILE_SAYS,
        verbose=False,
    )


def run(model: Llama, prompt: list[int], new_tokens: int) -> dict[str, Any]:
    """Logits of the prompt at every place, and what follows greedily."""
    model.reset()
    model.eval(prompt)
    logits = model.scores[: len(prompt)].tolist()
    tokens, start = [], time.perf_counter()
    for _ in range(new_tokens):
        tokens.append(int(model.scores[model.n_tokens - 1].argmax()))
        model.eval(tokens[-1:])
    return {"logits": logits, "tokens": tokens, "seconds": time.perf_counter() - start}


def main() -> None:
    request = json.load(sys.stdin)
    model = load(request["path"], request["threads"])
    texts = request.get("texts", [])
    answer = {
        "runs": [run(model, prompt, request["new_tokens"]) for prompt in request.get("prompts", [])],
        "ids": [model.tokenize(text.encode(), add_bos=False, special=False) for text in texts],
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
