"""Our decoder as transformers' own kind of model, for Trainer, PEFT, `generate` and evaluation harnesses."""

from transformers import AutoConfig, AutoModelForCausalLM

from sparsemix.interop.hf_model.config import SparsemixConfig
from sparsemix.interop.hf_model.model import SparsemixForCausalLM, SparsemixOutput
from sparsemix.interop.hf_model.updates import RouterUpdates

__all__ = ["RouterUpdates", "SparsemixConfig", "SparsemixForCausalLM", "SparsemixOutput", "register"]


def register() -> None:
    """Let `AutoConfig` and `AutoModelForCausalLM` know folders of our own format; without effect a second time."""
    AutoConfig.register(SparsemixConfig.model_type, SparsemixConfig, exist_ok=True)
    AutoModelForCausalLM.register(SparsemixConfig, SparsemixForCausalLM, exist_ok=True)
