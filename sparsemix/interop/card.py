"""The model card: what a model is, what it was trained on, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsemix.interop.decoders import model_dtype
from sparsemix.interop.own import MODEL_TYPE
from sparsemix.interop.stored import StoredModel
from sparsemix.models import DecoderConfig
from sparsemix.models.counts import count_by_formula

HEAD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- sparsemix{tag}
---

# {name}

A language model of {total:,} parameters, of which a token uses {active:,}{mixture}.
"""
LOAD = """
## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
{register}
model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```
"""
REGISTER = """
from sparsemix.interop.transformers import register  # pip install 'sparsemix[hf]'

register()  # or pass trust_remote_code=True
"""


def model_card(model: StoredModel, name: str, family: str) -> str:
    """README.md of a folder in the format of this family, `sparsemix` for our own."""
    counts, moe = count_by_formula(model.config), model.config.moe
    head = HEAD.format(
        name=name,
        tag="" if moe is None else "\n- mixture-of-experts",
        total=counts.parameters_total,
        active=counts.parameters_active,
        mixture="" if moe is None else f": a mixture of {moe.num_experts} experts",
    )
    load = LOAD.format(register=REGISTER if family == MODEL_TYPE else "")
    parts = [head, _table("Architecture", {"family": family, **_architecture(model)}), _training(model.facts), load]
    return "".join(part for part in parts if part)


def _architecture(model: StoredModel) -> dict[str, Any]:
    config = model.config
    return {
        "blocks": config.num_layers,
        "width": config.dim,
        "vocabulary": config.vocab_size,
        "context": config.context,
        "attention": f"{config.attention.type}, {config.attention.num_heads} heads",
        **_mixture(config),
        "dtype": str(model_dtype(model)).removeprefix("torch."),
    }


def _mixture(config: DecoderConfig) -> dict[str, Any]:
    if config.moe is None:
        return {}
    moe = config.moe
    used = float(moe.router.edges_per_token(moe.num_experts))
    return {
        "blocks with a mixture": len(config.moe_layers),
        "experts": f"{moe.num_experts} of kind {moe.experts.type}" + (" and a shared one" if moe.shared else ""),
        "experts a token": f"{used:g}",
        "router": moe.router.type,
    }


def _training(facts: Mapping[str, Any]) -> str:
    """What is known; a model that was not trained here says nothing of it."""
    started, evaluation = facts.get("started_with") or {}, facts.get("evaluation") or {}
    known = {
        "steps": facts.get("steps"),
        "tokens": facts.get("tokens"),
        "data": ", ".join(facts.get("data", ())) or None,
        "held-out loss, nats a token": evaluation.get("loss"),
        "held-out bits per byte": evaluation.get("bits_per_byte"),
        "sparsemix": started.get("sparsemix"),
        "torch": started.get("torch"),
        "device": started.get("device"),
        "seed": started.get("seed"),
    }
    return _table("Training", {name: value for name, value in known.items() if value is not None})


def _table(title: str, rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = [f"| {name} | {_text(value)} |" for name, value in rows.items()]
    return "\n".join(["", f"## {title}", "", "| | |", "|---|---|", *lines, ""])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
