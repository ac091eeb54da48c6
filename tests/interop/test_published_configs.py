"""Configs of published checkpoints are read as transformers reads them, also where a key is missing, and said again."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from interop.published import PUBLISHED
from interop.twins import transformers

from sparsemix.config import to_json
from sparsemix.interop import matching_family
from sparsemix.interop.families import FAMILIES
from sparsemix.interop.families.canonical import canonical
from sparsemix.interop.families.every import said
from sparsemix.interop.families.keys import Keys
from sparsemix.models import DecoderConfig
from sparsemix.models.architectures import ARCHITECTURES

OF_A_SHAPE = {"num_key_value_heads"}
"""Keys whose value the shapes of the weights tell: there a wrong one is refused when these are compared."""


def read(document: dict[str, Any]) -> DecoderConfig:
    return FAMILIES[document["model_type"]].read(Keys(document, "config.json"))


def by_transformers(document: dict[str, Any]) -> dict[str, Any]:
    """The document as transformers would save it."""
    return json.loads(transformers.AutoConfig.for_model(**copy.deepcopy(document)).to_json_string())


def meaning(config: DecoderConfig) -> dict[str, Any]:
    """What the config says, but for the last digits of a number."""
    return json.loads(to_json(canonical(config)), parse_float=lambda text: float(f"{float(text):.12g}"))


@pytest.mark.parametrize("model", sorted(PUBLISHED.keys() & ARCHITECTURES.keys()))
def test_it_is_the_architecture_that_we_know(model: str) -> None:
    known = ARCHITECTURES[model].decoder
    assert known is not None
    assert meaning(read(PUBLISHED[model])) == meaning(known)


@pytest.mark.parametrize("model", PUBLISHED)
def test_transformers_reads_the_same(model: str) -> None:
    assert meaning(read(PUBLISHED[model])) == meaning(read(by_transformers(PUBLISHED[model])))


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_missing_key_is_refused_or_means_what_it_means_to_transformers(model: str) -> None:
    read_without = set()
    for key in PUBLISHED[model].keys() - OF_A_SHAPE - {"model_type"}:
        document = {name: value for name, value in PUBLISHED[model].items() if name != key}
        try:
            config = read(document)
        except ValueError:
            continue
        assert meaning(config) == meaning(read(by_transformers(document))), key
        read_without.add(key)
    assert {"hidden_act", "rope_theta", "tie_word_embeddings"} <= read_without


@pytest.mark.parametrize("model", PUBLISHED)
def test_what_we_write_means_the_same_to_transformers(model: str) -> None:
    config, family = read(PUBLISHED[model]), PUBLISHED[model]["model_type"]
    assert matching_family(config) == family
    keys = said(FAMILIES[family], config)
    assert keys is not None
    assert meaning(config) == meaning(read(by_transformers({"model_type": family, **keys})))


@pytest.mark.parametrize("absent", [{"mscale"}, {"mscale_all_dim"}, {"mscale", "mscale_all_dim"}])
def test_scores_and_keys_are_scaled_as_in_transformers_whatever_of_it_is_said(absent: set[str]) -> None:
    document = copy.deepcopy(PUBLISHED["deepseek-v2"])
    for name in absent:
        del document["rope_scaling"][name]
    config = read(document)
    keys = said(FAMILIES["deepseek_v2"], config)
    assert keys is not None
    assert meaning(config) == meaning(read(by_transformers(document)))
    assert meaning(config) == meaning(read(by_transformers({"model_type": "deepseek_v2", **keys})))


@pytest.mark.parametrize("model", ["deepseek-v2-lite", "deepseek-v2", "deepseek-v3"])
def test_what_other_libraries_tell_deepseeks_versions_by_is_written(model: str) -> None:
    keys = said(FAMILIES[PUBLISHED[model]["model_type"]], read(PUBLISHED[model]))
    assert keys is not None
    for name in ("topk_method", "scoring_func", "n_group", "topk_group", "moe_layer_freq"):
        assert keys[name] == PUBLISHED[model][name]
    for name in ("factor", "mscale", "mscale_all_dim", "original_max_position_embeddings"):
        assert keys["rope_scaling"][name] == PUBLISHED[model]["rope_scaling"][name]


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ("qwen3-coder-30b-a3b", "use_qk_norm", False),
        ("qwen3-coder-30b-a3b", "shared_expert_intermediate_size", 8),
        ("olmoe-1b-7b", "clip_qkv", 8.0),
        ("deepseek-v2", "norm_topk_prob", True),
        ("deepseek-v2", "moe_layer_freq", 2),
        ("deepseek-v3", "scoring_func", "softmax"),
        ("deepseek-v3", "rope_interleave", False),
        ("gpt-oss-20b", "layer_types", ["chunked_attention"] * 24),
        ("mixtral-8x7b", "sliding_window_pattern", 2),
    ],
)
def test_what_our_decoder_cannot_be_is_refused_by_name(model: str, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"config.json: {key}.*: must be .*, got .*; run it in transformers"):
        read(PUBLISHED[model] | {key: value})
