"""A decoder of ours inside a `PreTrainedModel`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.utils.generic import can_return_tuple

from sparsemix.checks import check
from sparsemix.interop.hf_model.cache import as_ours
from sparsemix.interop.hf_model.config import SparsemixConfig
from sparsemix.interop.hf_model.inputs import check_grows, check_taken, documents, valid_tokens
from sparsemix.interop.hf_model.output import SparsemixOutput, collector, share, total
from sparsemix.interop.remote_code import write_stubs
from sparsemix.routers.hashing import HashRouter


class SparsemixForCausalLM(PreTrainedModel, GenerationMixin):
    """The decoder, called the way transformers calls a language model.

    In training, and only there, the loss contains the balance losses that the config names: evaluation gives the
    cross-entropy alone. Routers that follow their load, as with a selection bias, need `RouterUpdates` in the Trainer.
    """

    config_class = SparsemixConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: SparsemixConfig) -> None:
        super().__init__(config)
        self.model = config.decoder_config().build()
        self.losses = config.losses()
        self.gradient_checkpointing = False
        if not self.model.norm.weight.is_meta:
            for module in self.model.modules():  # initialised already, and not as transformers would
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.register_load_state_dict_pre_hook(_take_saved_names)
        self.post_init()
        if self.model.config.depth is not None:
            self.generation_config.use_cache = False

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **options: Any) -> Any:
        """`PreTrainedModel.from_pretrained`, but tensors that are missing or unknown are refused, not warned of."""
        model, info = cast(Any, super().from_pretrained(*args, output_loading_info=True, **options))
        for kind in ("missing", "unexpected"):
            names = sorted(info[f"{kind}_keys"])
            rule = "must have the tensors of the model, all of them and no others"
            check(not names, "model", rule, f"{len(names)} {kind}, {names[:1]} first", "restore the files")
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        *args: Any,
        **options: Any,
    ) -> None:
        """`PreTrainedModel.save_pretrained`, with the decoder's own names and the files of remote code."""
        if not getattr(self, "_hf_peft_config_loaded", False):  # adapters alone are saved, under names of PEFT's
            found = self.state_dict() if state_dict is None else state_dict
            state_dict = {name.removeprefix(f"{self.base_model_prefix}."): tensor for name, tensor in found.items()}
        super().save_pretrained(save_directory, is_main_process, cast(Any, state_dict), *args, **options)
        if is_main_process:
            write_stubs(Path(save_directory))

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoModel") -> None:
        """Nothing to do: `save_pretrained` writes remote code that imports this class, instead of a copy of it."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_routings: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **unsupported: Any,
    ) -> SparsemixOutput:
        """Run the decoder.

        Args:
            input_ids: int64, (B, S).
            attention_mask: (B, tokens in the cache and S), 0 for padding, which is attended by none, reaches no
                expert and counts in no balance loss.
            position_ids: (B or 1, S); None: from 0, padding not counted. Without mask and cache, another document
                begins where they do not go on by 1, and attention does not cross into it.
            past_key_values: the tokens before these; a cache that grows.
            labels: the input ids, -100 where there is nothing to learn; shifted here.
            use_cache: None: as the config says, but not in training.
            output_routings: None: as the config says.
            logits_to_keep: the last so many places, 0 for all; or places.
            num_items_in_batch: what the summed cross-entropy is divided by under gradient accumulation. The balance
                losses then count by this micro-batch's share of it.
            unsupported: what other models take; only None and False are taken here.
        """
        check_taken(input_ids, unsupported)
        keep_routings = self.config.output_routings if output_routings is None else output_routings
        tokens, document_BS = cast(Tensor, input_ids), None
        if position_ids is not None:
            position_ids = position_ids.expand_as(tokens)
            if attention_mask is None and past_key_values is None:
                document_BS = documents(position_ids)
        if past_key_values is None and document_BS is None and self._keeps_cache(use_cache):
            past_key_values = DynamicCache(config=self.config)
        output = self.model(
            **self._tokens(tokens, attention_mask, position_ids, past_key_values),
            document_BS=document_BS,
            collect=collector(self.losses if self.training else None, keep_routings),
            activation_checkpointing=self.gradient_checkpointing and self.training,
        )
        places = logits_to_keep if isinstance(logits_to_keep, Tensor) else slice(-logits_to_keep, None)
        logits = self.model.logits(output.hidden_BSD[:, places])
        loss, aux_loss = None, total(output) if self.training else None
        if labels is not None:
            sizes = {"vocab_size": logits.shape[-1], "num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(logits=logits, labels=labels, **sizes)
            if aux_loss is not None:
                loss = loss + share(labels, num_items_in_batch) * aux_loss
        routings = tuple(kept.routing for kept in output.collected) if keep_routings else None
        return SparsemixOutput(loss, aux_loss, logits, past_key_values, routings)

    def _tokens(
        self, tokens_BS: Tensor, attention_mask: Tensor | None, position_BS: Tensor | None, past: Cache | None
    ) -> dict[str, Any]:
        """Arguments of the decoder."""
        length = 0 if past is None else past.get_seq_length()
        valid, cache = valid_tokens(attention_mask, tokens_BS, length), None
        if past is not None:
            check_grows(past)
            rule, remedy = "not with a mixture of depths, which keeps fewer tokens", "pass use_cache=False"
            check(self.model.config.depth is None, "past_key_values", rule, type(past).__name__, remedy)
            rule = "not together with gradient checkpointing, which would fill it twice"
            checkpointing = self.gradient_checkpointing and self.training
            check(not checkpointing, "past_key_values", rule, type(past).__name__, remedy)
            cache = as_ours(past, len(self.model.blocks), tokens_BS, valid)
        return {
            "tokens_BS": tokens_BS,
            "position_BS": position_BS,
            "valid_BS": None if valid is None else valid[:, length:],
            "cache": cache,
        }

    def get_input_embeddings(self) -> nn.Module:
        """What embeds tokens."""
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding in its place."""
        self.model.embedding = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module | None:
        """What makes logits; None where that is the embedding."""
        return self.model.unembedding

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another unembedding in its place."""
        self.model.unembedding = cast(nn.Linear, new_embeddings)

    def resize_token_embeddings(self, *args: Any, **options: Any) -> nn.Embedding:
        """`PreTrainedModel.resize_token_embeddings`.

        Raises:
            ValueError: a router has a table by token id, in which new tokens would be missing.
        """
        tables = [name for name, module in self.model.named_modules() if isinstance(module, HashRouter)]
        remedy = "train with a larger vocabulary"
        check(not tables, "resize_token_embeddings", "needs routers that know no token ids", tables[:1], remedy)
        embedding = super().resize_token_embeddings(*args, **options)
        self.model.config = replace(self.model.config, vocab_size=embedding.num_embeddings)
        self.config.set_decoder_config(self.model.config)
        return embedding

    def _keeps_cache(self, use_cache: bool | None) -> bool:
        if use_cache is None:
            return self.config.use_cache and not self.training and self.model.config.depth is None
        return use_cache


def _take_saved_names(model: nn.Module, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
    """Trainer resumes with `load_state_dict` of what was saved, whose names are the decoder's own."""
    inner = f"{prefix}{SparsemixForCausalLM.base_model_prefix}."
    for name in [name for name in state_dict if name.startswith(prefix) and not name.startswith(inner)]:
        state_dict[inner + name.removeprefix(prefix)] = state_dict.pop(name)
