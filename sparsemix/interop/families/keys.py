"""The keys of a config.json, each of which is understood or known to be of no account here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsemix.checks import check

OF_NO_ACCOUNT = (
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
)
"""Keys of any family that change nothing of what the model computes."""
ELSEWHERE = "run it in transformers, with experts_implementation='sparsemix'"


class Keys:
    """A config of Hugging Face's, of which keys are taken until none is left."""

    def __init__(self, document: Mapping[str, Any], source: str) -> None:
        self._left, self.source = dict(document), source
        self.skip(*OF_NO_ACCOUNT)

    def take(self, name: str) -> Any:
        """The value of a key.

        Raises:
            ValueError: there is none.
        """
        value = self.peek(name)
        self.skip(name)
        return value

    def take_one(self, *names: str) -> Any:
        """The value of a key that goes by several names, of which the first is the usual one.

        Raises:
            ValueError: it is given by none of them.
        """
        name = next((name for name in names if self._left.get(name) is not None), names[0])
        return self.take(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a key, or `default` where it is missing or null."""
        value = self._left.pop(name, None)
        return default if value is None else value

    def nullable(self, name: str, default: Any) -> Any:
        """The value of a key, null too, which says something here, or `default` where it is missing."""
        return self._left.pop(name, default)

    def peek(self, name: str) -> Any:
        """The value of a key that is taken elsewhere.

        Raises:
            ValueError: there is none.
        """
        value = self._left.get(name)
        check(value is not None, f"{self.source}: {name}", "must be given", "none", "get the model anew")
        return value

    def has(self, name: str) -> bool:
        """Whether a key is given, and neither null nor empty."""
        return bool(self._left.get(name))

    def only(self, name: str, value: Any) -> None:
        """Take a key that may be missing.

        Raises:
            ValueError: it has another value than the only one that our decoder can be.
        """
        self.choose(name, {value: value}, value)

    def choose(self, name: str, choices: Mapping[Any, Any], default: Any) -> Any:
        """What the value of a key, or `default` where it is missing or null, stands for.

        Raises:
            ValueError: it is none of the choices.
        """
        value = self.get(name, default)
        rule = f"must be {' or '.join(map(repr, choices))} for our decoder"
        check(value in list(choices), f"{self.source}: {name}", rule, repr(value), ELSEWHERE)
        return choices[value]

    def skip(self, *names: str) -> None:
        """Take keys of no account."""
        for name in names:
            self._left.pop(name, None)

    def inside(self, name: str) -> Keys | None:
        """The keys of an object that is the value of a key, where it is given and not empty."""
        value, where = self.get(name, {}), f"{self.source}: {name}"
        check(isinstance(value, dict), where, "must be a JSON object", repr(value), "get the model anew")
        return Keys(value, where) if value else None

    def done(self) -> None:
        """Raise `ValueError` if a key is left: it may change what the model computes."""
        left = ", ".join(self._left)
        seen = ", ".join(map(repr, self._left.values()))
        check(not self._left, f"{self.source}: {left}", "must be a key that we know of this family", seen, ELSEWHERE)
