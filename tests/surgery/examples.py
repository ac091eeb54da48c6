"""Small stored models that the tests of surgery share."""

from __future__ import annotations

import torch
from models.examples import small_config
from torch import Tensor

from sparsemix.interop.stored import StoredModel
from sparsemix.models import Decoder
from sparsemix.tensors import Held


def stored(decoder: Decoder) -> StoredModel:
    return StoredModel(decoder.config, Held(decoder.state_dict()), "sparsemix", facts={"steps": 7})


def small_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> tuple[StoredModel, Decoder]:
    """A model and the decoder it is of; routers are sharp enough for experts to differ in load."""
    decoder = small_config(**changes).build(seed).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "router" in name.split("."):
                parameter.mul_(3)
            elif "bias" in name:
                parameter.normal_(std=0.3)
    return stored(decoder), decoder


def logits(decoder: Decoder, tokens_BS: Tensor) -> Tensor:
    with torch.no_grad():
        return decoder.logits(decoder(tokens_BS).hidden_BSD)
