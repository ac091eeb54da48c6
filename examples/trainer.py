"""A mixture of transformers, fine-tuned by its Trainer, with its experts by our kernels: `register()`, and a name."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments

from sparsemix.data import read_documents
from sparsemix.interop.transformers import register

CONTEXT = 64
"""Bytes of a sequence; each byte is a token."""


def main(argv: Sequence[str] | None = None) -> list[float]:
    """Train a tiny model on text that every machine has, and print and return the loss as it goes."""
    parser = argparse.ArgumentParser(description="transformers' Trainer with the experts of sparsemix")
    parser.add_argument("--steps", type=int, default=60, help="of the optimiser")
    parser.add_argument("--experts", default="sparsemix", help="transformers' experts_implementation")
    settings = parser.parse_args(argv)
    register()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=settings.steps,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            logging_steps=10,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(tiny_mixtral(settings.experts), arguments, train_dataset=sequences(settings.steps * 16))
        trainer.train()
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def tiny_mixtral(experts_implementation: str) -> MixtralForCausalLM:
    """Where others load theirs: `AutoModelForCausalLM.from_pretrained(name, experts_implementation="sparsemix")`."""
    config = MixtralConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=CONTEXT,
        output_router_logits=True,  # with which it adds its balance loss
        experts_implementation=experts_implementation,  # pyright: ignore[reportCallIssue]  # not in the signature
    )
    return MixtralForCausalLM(config)


def sequences(count: int) -> list[dict[str, Tensor]]:
    """Of the source of Python's own library."""
    text = "".join(document.text for document in islice(read_documents("builtin"), 200)).encode()
    token_BS = torch.frombuffer(bytearray(text[: count * CONTEXT]), dtype=torch.uint8).long().view(-1, CONTEXT)
    return [{"input_ids": token_S, "labels": token_S} for token_S in token_BS]


if __name__ == "__main__":
    main()
