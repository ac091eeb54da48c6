"""The keys of a config.json, each of which is understood or known to be of no account here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsemix.checks import check

OF_NO_ACCOUNT = (
    "_name_or_path",
    "architectures",
    "attention_dropout",  # of training, as are those below
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "model_type",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "torch_dtype",
    "transformers_version",
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
        given = self._left.get(name) is not None
        check(given, f"{self.source}: {name}", "must be given", "none", "get the model anew")
        return self._left.pop(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a key, or `default` where it is missing or null."""
        value = self._left.pop(name, None)
        return default if value is None else value

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
        known = ", ".join(map(repr, choices))
        check(value in choices, f"{self.source}: {name}", f"must be {known} for our decoder", repr(value), ELSEWHERE)
        return choices[value]

    def skip(self, *names: str) -> None:
        """Take keys of no account."""
        for name in names:
            self._left.pop(name, None)

    def done(self) -> None:
        """Raise `ValueError` if a key is left: it may change what the model computes."""
        for name, value in self._left.items():
            check(False, f"{self.source}: {name}", "must be a key that this family has", repr(value), ELSEWHERE)
