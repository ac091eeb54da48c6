"""What transformers runs with trust_remote_code=True in a folder of our own format: imports, never copies of code."""

from __future__ import annotations

from pathlib import Path

from sparsemix.files import write_text

STUBS = {
    "AutoConfig": ("configuration_sparsemix", "SparsemixConfig"),
    "AutoModelForCausalLM": ("modeling_sparsemix", "SparsemixForCausalLM"),
}
"""A file for each, and the class that it takes from this package."""
AUTO_MAP = {auto: f"{file}.{name}" for auto, (file, name) in STUBS.items()}
"""What config.json says of them."""


def write_stubs(folder: Path) -> None:
    """Write these files."""
    for file, name in STUBS.values():
        text = f'"""Needs: pip install sparsemix."""\n\nfrom sparsemix.interop.hf_model import {name}\n'
        write_text(folder / f"{file}.py", f'{text}\n__all__ = ["{name}"]\n')
