"""The config.json of our own format, as transformers reads it: a `DecoderConfig`, and what libraries look for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import pydantic
from transformers import PretrainedConfig

from sparsemix.balance import Loss, LossConfig
from sparsemix.checks import check
from sparsemix.config import from_json, one_line, to_json
from sparsemix.interop.own import MODEL_TYPE, check_derived, derived_fields
from sparsemix.interop.remote_code import AUTO_MAP
from sparsemix.models import DecoderConfig
from sparsemix.runs import FORMAT_VERSION
from sparsemix.runs.versions import migrated

LOSSES = pydantic.TypeAdapter(tuple[LossConfig, ...])


class SparsemixConfig(PretrainedConfig):
    """What `SparsemixForCausalLM` is made of.

    Args:
        model: a `DecoderConfig`, or its JSON as a dict.
        balance_losses: what training adds to the loss, summed over layers, each with its weight; None: the losses of
            the router's paper, (): none.
        output_routings: give the routing of every mixture: 8 T E bytes a layer, and more.
        use_cache: keep keys and values in evaluation mode.

    What other libraries read, `vocab_size` and the like, follows from `model`.

    Raises:
        ValueError: no such model, one of a newer version, or a number beside it that contradicts it.
    """

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ["past_key_values", "aux_loss", "routings"]  # noqa: RUF012

    def __init__(
        self,
        model: DecoderConfig | Mapping[str, Any] | None = None,
        balance_losses: Sequence[Loss | Mapping[str, Any]] | None = None,
        output_routings: bool = False,
        use_cache: bool = True,
        format_version: int = FORMAT_VERSION,
        **others: Any,
    ) -> None:
        self.format_version = FORMAT_VERSION
        self.balance_losses = None if balance_losses is None else _losses_as_json(balance_losses)
        self.output_routings = output_routings
        self.use_cache = use_cache
        self.model: dict[str, Any] | None = None  # without arguments only, as transformers calls it to see defaults
        if isinstance(model, Mapping):
            model = migrated("config", {"model": dict(model)}, format_version, "format_version")["model"]
        if model is not None:
            self.model = _model_as_json(model)
            check_derived(self.decoder_config(), others)
            others |= derived_fields(self.decoder_config())
        others.setdefault("auto_map", AUTO_MAP)
        super().__init__(**others)

    def decoder_config(self) -> DecoderConfig:
        """What the decoder is built of."""
        check(self.model is not None, "model", "must be given", "none", "pass a DecoderConfig")
        return from_json(DecoderConfig, json.dumps(self.model), "model")

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: a folder's remote code imports this class, instead of a copy of it."""

    def set_decoder_config(self, model: DecoderConfig) -> None:
        """Describe another decoder."""
        self.model = _model_as_json(model)
        for name, value in derived_fields(model).items():
            setattr(self, name, value)

    def losses(self) -> Sequence[Loss]:
        """What training adds to the loss."""
        moe = self.decoder_config().moe
        if moe is None:
            return ()
        if self.balance_losses is None:
            return moe.router.losses(moe.num_experts)
        return _losses(self.balance_losses)


def _model_as_json(model: DecoderConfig | Mapping[str, Any]) -> dict[str, Any]:
    """All of it, so that a later default changes nothing."""
    if not isinstance(model, DecoderConfig):
        model = from_json(DecoderConfig, json.dumps(model), "model")
    return json.loads(to_json(model))


def _losses_as_json(losses: Sequence[Loss | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """All of each, as with the model."""
    found = [dict(one) if isinstance(one, Mapping) else asdict(cast(Any, one)) for one in losses]
    return json.loads(LOSSES.dump_json(_losses(found)))


def _losses(losses: Sequence[Mapping[str, Any]]) -> tuple[LossConfig, ...]:
    try:
        return LOSSES.validate_json(json.dumps(losses))
    except pydantic.ValidationError as error:
        raise ValueError(one_line(error, "balance_losses")) from None
