"""Memory of surgery: random models of 4 GB, dense to be upcycled and mixtures to be cut, through the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import arguments, claim, save, spread
from interop_memory import ALLOWED, Drawn, configs, held

from sparsemix.data import ByteTokenizerConfig
from sparsemix.experts import GLUExpertsConfig
from sparsemix.interop import StoredModel, open_model, write_own
from sparsemix.interop.decoders import decoder_specs
from sparsemix.models import DecoderConfig

TEXT = ("--tokens", "1024")
DENSE = {
    "upcycle": ("--num-experts", "8"),
    "upcycle, half drawn anew": ("--num-experts", "8", "--drop", "0.5"),
    "upcycle, two shards": ("--num-experts", "8", "--num-shards", "2", "--router.k", "2"),
}
MIXTURES = {
    "prune": ("--keep", "6"),
    "merge-experts": ("--keep", "6"),
    "split": ("--num-shards", "2"),
    "grow": ("--num-experts", "16"),
    "add-null": ("--num-null", "4"),
    "drop-layer-experts": ("--count", "2"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each verb and write surgery_memory.json."""
    settings = arguments("Peak memory of surgery", argv, rounds=1)
    mixture = configs(settings.toy)["mixtral"]
    measured = [measure(dense(mixture), verb, flags) for verb, flags in DENSE.items()]
    measured += [measure(mixture, verb, flags) for verb, flags in MIXTURES.items()]
    save("surgery_memory", {"bound": "1.5 layers + 500 MB", "measured": measured}, settings.out)


def dense(mixture: DecoderConfig) -> DecoderConfig:
    """One whose upcycled mixtures of 8 are those."""
    assert mixture.moe is not None
    assert isinstance(mixture.moe.experts, GLUExpertsConfig)
    return replace(mixture, moe=None, ffn=mixture.moe.experts)


def measure(config: DecoderConfig, verb: str, flags: Sequence[str]) -> dict[str, Any]:
    """The verb on a random model, in a process of its own; a layer is the larger one of before and after."""
    model = StoredModel(config, Drawn(decoder_specs(config)), "sparsemix")
    with TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "source", Path(scratch) / "out"
        ByteTokenizerConfig().build([]).save(Path(scratch) / "tokenizer.json")
        write_own(model._replace(files=(Path(scratch) / "tokenizer.json",)), source)
        peak = held(f"surgery {verb.partition(',')[0]}", source, out, *flags, *TEXT)
        layer = max(layer_bytes(folder) for folder in (source, out))
        size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    bound = 1.5 * layer + ALLOWED
    return {
        "verb": verb,
        "model_bytes": size,
        "layer_bytes": layer,
        "peak_bytes": peak,
        "claims": [claim(f"{verb}: peak over 1.5 layers + 500 MB", spread([peak / bound]), at_most=1.0)],
    }


def layer_bytes(folder: Path) -> int:
    """Of the largest block of a model of our own format."""
    model = open_model(folder)
    sizes = [0] * model.config.num_layers
    for name, spec in model.tensors.specs.items():
        if name.startswith("blocks."):
            sizes[int(name.split(".")[1])] += spec.nbytes
    return max(sizes)


if __name__ == "__main__":
    main()
