"""The families that our decoder can be, and which of them can say a config."""

from __future__ import annotations

from typing import Any

from sparsemix.interop.families.canonical import canonical
from sparsemix.interop.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.gpt_oss import GPT_OSS
from sparsemix.interop.families.granitemoe import GRANITE_MOE
from sparsemix.interop.families.keys import Keys
from sparsemix.interop.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from sparsemix.interop.families.mixtral import MIXTRAL
from sparsemix.interop.families.olmoe import OLMOE
from sparsemix.interop.families.qwen2_moe import QWEN2_MOE
from sparsemix.interop.families.qwen3_moe import QWEN3_MOE
from sparsemix.models import DecoderConfig

MIXTURES = (MIXTRAL, QWEN2_MOE, QWEN3_MOE, OLMOE, DEEPSEEK_V2, DEEPSEEK_V3, GPT_OSS, GRANITE_MOE)
DENSE = (LLAMA, MISTRAL, QWEN2, QWEN3)
FAMILIES = {family.name: family for family in MIXTURES + DENSE}
"""By `model_type`; where several can say a config, the first is taken."""


def said(family: Family, config: DecoderConfig) -> dict[str, Any] | None:
    """The keys of this family that say the whole config and nothing else; None where there are none."""
    keys = family.to_theirs(config)
    if keys is None:
        return None
    try:
        back = family.read(Keys(keys, family.name))
    except ValueError:  # it has no such value
        return None
    return keys if canonical(back) == canonical(config) else None


def matching_family(config: DecoderConfig) -> str | None:
    """The first family that a decoder of this config is of; None where it is of none."""
    return next((name for name, family in FAMILIES.items() if said(family, config) is not None), None)
