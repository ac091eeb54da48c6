"""Memory of import and export: random models of 4 GB, in families that stack, transpose and alternate experts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from harness import arguments, claim, save, spread
from torch import Tensor

from sparsemix.experts import ClampedGLUExpertsConfig, GLUExpertsConfig
from sparsemix.interop import StoredModel, theirs
from sparsemix.interop.decoders import decoder_specs
from sparsemix.layer import MoEConfig
from sparsemix.models import AttentionConfig, DecoderConfig
from sparsemix.routers import TopKRouterConfig
from sparsemix.tensors import Spec, write_folder

ALLOWED = 500_000_000
"""Bytes beside one and a half layers."""
SHARD_BYTES = 1_000_000_000
PROBE = Path(__file__).parent / "interop_probe.py"


class Drawn:
    """Normal tensors, drawn when they are read."""

    def __init__(self, specs: Mapping[str, Spec]) -> None:
        self.specs = specs

    def read(self, name: str) -> Tensor:
        return torch.randn(self.specs[name].shape) * 0.02


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each family and write interop_memory.json."""
    settings = arguments("Peak memory of import and export", argv, rounds=1)
    measured = [measure(name, config) for name, config in configs(settings.toy).items()]
    save("interop_memory", {"bound": "1.5 layers + 500 MB", "measured": measured}, settings.out)


def configs(toy: bool) -> dict[str, DecoderConfig]:
    """16 layers of 250 MB each, or next to nothing."""
    layers, dim, hidden, vocab = (2, 16, 8, 320) if toy else (16, 1024, 2368, 8192)
    gates = {
        "mixtral": (TopKRouterConfig(k=2, gate="topk_softmax"), GLUExpertsConfig(hidden=hidden)),
        "gpt_oss": (TopKRouterConfig(k=2, gate="topk_softmax", bias=True), ClampedGLUExpertsConfig(hidden=hidden)),
    }
    return {
        family: DecoderConfig(
            vocab_size=vocab,
            dim=dim,
            num_layers=layers,
            context=1024,
            attention=AttentionConfig(num_heads=8, sinks=family == "gpt_oss", bias=biases(family)),
            moe=MoEConfig(num_experts=8, router=router, experts=experts),
        )
        for family, (router, experts) in gates.items()
    }


def biases(family: str) -> Any:
    """Which projections of attention have a bias."""
    return "qkvo" if family == "gpt_oss" else "none"


def measure(family: str, config: DecoderConfig) -> dict[str, Any]:
    """Import, then export what was imported, each in a process of its own."""
    specs = decoder_specs(config)
    layer = sum(spec.nbytes for name, spec in specs.items() if name.startswith("blocks.0."))
    model = StoredModel(config, Drawn(specs), family)
    with TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in ("theirs", "ours", "back")}
        write_theirs(model, family, folders["theirs"])
        taken = {
            verb: held(verb, folders[source], folders[out])
            for verb, source, out in (("import", "theirs", "ours"), ("export", "ours", "back"))
        }
    bound = 1.5 * layer + ALLOWED
    return {
        "family": family,
        "model_bytes": sum(spec.nbytes for spec in specs.values()),
        "layer_bytes": layer,
        "peak_bytes": taken,
        "peak_over_layer": {verb: peak / layer for verb, peak in taken.items()},
        "claims": [
            claim(f"{verb} of {family}: peak over 1.5 layers + 500 MB", spread([peak / bound]), at_most=1.0)
            for verb, peak in taken.items()
        ],
    }


def write_theirs(model: StoredModel, family: str, folder: Path) -> None:
    """A Hugging Face folder of the model."""
    document, tensors = theirs(model, family)
    folder.mkdir()
    write_folder(tensors, folder, max_shard_bytes=SHARD_BYTES)
    (folder / "config.json").write_text(json.dumps(document))


def held(verb: str, source: Path, out: Path, *flags: str) -> int:
    """Bytes that the verb holds at most, beyond what its process does before it."""
    line = [sys.executable, str(PROBE), *verb.split(), str(source), "--out", str(out), *flags]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return found["after"] - found["before"]


if __name__ == "__main__":
    main()
