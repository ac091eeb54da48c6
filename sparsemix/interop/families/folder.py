"""A folder of Hugging Face's becomes a stored model, and a stored model becomes what such a folder holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sparsemix.checks import check
from sparsemix.interop.agree import check_tensors
from sparsemix.interop.decoders import decoder_specs, model_dtype
from sparsemix.interop.families.every import FAMILIES, said
from sparsemix.interop.families.family import Family
from sparsemix.interop.families.keys import ELSEWHERE, Keys
from sparsemix.interop.families.rules import Rule
from sparsemix.interop.own import CONFIG, files_along, given_tokens
from sparsemix.interop.stored import StoredModel
from sparsemix.models import DecoderConfig
from sparsemix.tensors import Derived, Recipe, Spec, TensorSource, open_folder

LAYER = re.compile(r"model\.layers\.(\d+)\.")
COMPUTED = "rotary_emb.inv_freq"
"""How names end of what old checkpoints hold beside the weights: it follows from the config; transformers skips it."""
BLOCK = re.compile(r"\bblocks\.(\d+)\.")


class Match(NamedTuple):
    """A tensor of ours and the rule of it."""

    ours: str
    theirs: tuple[str, ...]
    rule: Rule


def open_family(folder: Path, document: Mapping[str, Any]) -> StoredModel:
    """The model in a folder of Hugging Face's, whose config.json is `document`.

    Raises:
        ValueError: it is of no family we know, its config says what our decoder cannot be or what we do not know, or
            its tensors are damaged or not those that the config says.
    """
    where = str(folder / CONFIG)
    name = document.get("model_type")
    rule = f"must be one of {', '.join(FAMILIES)}, which our decoder can be"
    check(str(name) in FAMILIES, f"{where}: model_type", rule, repr(name), ELSEWHERE)
    family, keys = FAMILIES[str(name)], Keys(document, where)
    remedy = "save it from transformers with its weights dequantised to bfloat16"
    quantized = keys.get("quantization_config")
    check(quantized is None, f"{where}: quantization_config", "must be none", repr(quantized), remedy)
    config = family.read(keys)
    tensors = open_folder(folder)
    found = {name: spec for name, spec in tensors.specs.items() if not name.endswith(COMPUTED)}
    _check_layers(found, config.num_layers, folder)
    check_tensors(found, their_specs(family, config), str(folder))
    facts = {"special_tokens": given_tokens(document)}
    return StoredModel(config, from_theirs(family, config, tensors), family.name, files_along(folder), facts)


def _check_layers(names: Iterable[str], num_layers: int, folder: Path) -> None:
    """DeepSeek-V3 comes with a further layer, which predicts the token after the next."""
    rule = f"must be of one of the {num_layers} layers of the config"
    remedy = "if it predicts further tokens, save the model from transformers, which leaves it out"
    for name in names:
        layer = LAYER.match(name)
        inside = layer is None or int(layer[1]) < num_layers
        check(inside, f"{folder}: {name}", rule, "an extra tensor", remedy)


def theirs(model: StoredModel, name: str) -> tuple[dict[str, Any], TensorSource]:
    """config.json and tensors of the model as one of a family's.

    Raises:
        ValueError: there is no such family, or it cannot say the config.
    """
    check(name in FAMILIES, "family", f"must be one of {', '.join(FAMILIES)}", repr(name), "choose one")
    family = FAMILIES[name]
    keys = said(family, model.config)
    rule = f"must be a model that {name} can say"
    check(keys is not None, "family", rule, "another", "choose another family, or our own format")
    document = {
        "architectures": [family.architecture],
        "model_type": name,
        "dtype": str(model_dtype(model)).removeprefix("torch."),
        **(keys or {}),
        **model.facts.get("special_tokens", {}),
    }
    return document, to_theirs(family, model.config, model.tensors)


def from_theirs(family: Family, config: DecoderConfig, tensors: TensorSource) -> TensorSource:
    """Tensors named as ours, of a family's."""
    return Derived(tensors, {ours: Recipe(names, rule.join) for ours, names, rule in matches(family, config)})


def to_theirs(family: Family, config: DecoderConfig, tensors: TensorSource) -> TensorSource:
    """Tensors named as a family's, of ours."""
    recipes = {
        name: Recipe((ours,), partial(_cut, rule=rule, index=index))
        for ours, names, rule in matches(family, config)
        for index, name in enumerate(names)
    }
    return Derived(tensors, recipes)


def their_specs(family: Family, config: DecoderConfig) -> Mapping[str, Spec]:
    """What a folder of this family and config must hold."""
    return to_theirs(family, config, _Shapes(decoder_specs(config))).specs


def matches(family: Family, config: DecoderConfig) -> list[Match]:
    """Every tensor of ours with its rule, and so every one of theirs once."""
    found = list(_matches(family, config))
    twice = [name for name, count in Counter(name for match in found for name in match.theirs).items() if count > 1]
    assert not twice, f"the table of {family.name} uses {twice} more than once"
    return found


def _matches(family: Family, config: DecoderConfig) -> Iterator[Match]:
    table = family.table(config)
    for ours in decoder_specs(config):
        layer = BLOCK.search(ours)
        pattern = BLOCK.sub("blocks.*.", ours)
        assert pattern in table, f"the table of {family.name} has no rule for {pattern}"
        names = table[pattern].names(config.moe.num_experts if config.moe else 0)
        yield Match(ours, tuple(name.replace("*", layer[1]) if layer else name for name in names), table[pattern])


class _Shapes(NamedTuple):
    """A source that nothing is read of."""

    specs: Mapping[str, Spec]

    def read(self, name: str) -> Tensor:
        raise AssertionError(f"{name} is known by its shape alone")


def _cut(tensors: Sequence[Tensor], rule: Rule, index: int) -> Tensor:
    return rule.cut(tensors[0], index)
