"""Configs: JSON and back, and what is refused, in one line."""

import dataclasses
import json
from typing import Literal

import pytest
from cases import ACTIVATIONS
from hypothesis import given
from hypothesis import strategies as st

from sparsemix import GLUExpertsConfig, MLPExpertsConfig, MoEConfig, TopKRouterConfig
from sparsemix.config import config, from_json, read_json, to_json

NAMES = st.sampled_from(ACTIVATIONS)
BACKENDS = st.sampled_from(["auto", "reference", "cpu", "native"])
POSITIVE = st.none() | st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@st.composite
def routers(draw):
    k = draw(st.integers(1, 2**40))
    return TopKRouterConfig(
        k=k,
        gate=draw(
            st.sampled_from(["softmax_topk", "topk_softmax", "sigmoid"] if k > 1 else ["softmax_topk", "sigmoid"])
        ),
        normalize=draw(st.booleans()) and k > 1,
        capacity_factor=draw(POSITIVE),
        capacity_factor_eval=draw(POSITIVE),
        priority=draw(st.sampled_from(["position", "probability"])),
        noise=draw(st.booleans()),
        jitter=draw(st.floats(0, 1, exclude_max=True)),
        bias=draw(st.booleans()),
        bias_rate=draw(st.floats(min_value=0, allow_infinity=False)),
    )


glus = st.builds(GLUExpertsConfig, hidden=st.integers(1), activation=NAMES, backend=BACKENDS)
mlps = st.builds(
    MLPExpertsConfig,
    hidden=st.integers(1),
    activation=NAMES,
    bias=st.booleans(),
    backend=BACKENDS,
)
layers = st.builds(
    MoEConfig,
    num_experts=st.integers(1),
    router=routers(),
    experts=glus | mlps,
    shared=st.none() | glus | mlps,
    shared_gate=st.booleans(),
    routed_scale=st.floats(allow_nan=False, allow_infinity=False),
)


@given(layers)
def test_a_config_comes_back_from_json_as_it_was(layer):
    text = to_json(layer)
    again = from_json(MoEConfig, text)
    assert again == layer
    assert hash(again) == hash(layer)
    assert to_json(again) == text
    for part in (layer.router, layer.experts):
        assert from_json(type(part), to_json(part)) == part


def test_json_says_all_there_is_to_say_defaults_and_types_included():
    written = json.loads(to_json(MoEConfig(num_experts=4, experts=GLUExpertsConfig(hidden=8))))
    defaults = {"activation": "silu", "bias": False, "backend": "auto", "recompute": False}
    assert written["experts"] == {"type": "glu", "hidden": 8, **defaults}
    assert written["router"]["type"] == "topk"
    assert set(written["router"]) == {field.name for field in dataclasses.fields(TopKRouterConfig)}
    assert written["shared"] is None


def test_a_file_needs_to_say_only_what_is_not_default(tmp_path):
    path = tmp_path / "layer.json"
    path.write_text('{"num_experts": 4, "experts": {"type": "mlp", "hidden": 8}}')
    assert read_json(MoEConfig, path) == MoEConfig(num_experts=4, experts=MLPExpertsConfig(hidden=8))


def test_configs_are_frozen_and_keyword_only():
    router = TopKRouterConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        router.k = 3
    with pytest.raises(TypeError, match="positional"):
        TopKRouterConfig(2)
    assert dataclasses.replace(router, k=3) == TopKRouterConfig(k=3)
    with pytest.raises(ValueError, match=r"^TopKRouterConfig: k: "):
        dataclasses.replace(router, k=0)


INFINITY, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (TopKRouterConfig, {"kk": 2}, "TopKRouterConfig: kk: unknown key, got 2; remove it or correct its name"),
        (TopKRouterConfig, {"k": "two"}, "TopKRouterConfig: k: Input should be a valid integer"),
        (TopKRouterConfig, {"k": 1.5}, "TopKRouterConfig: k: Input should be a valid integer"),
        (TopKRouterConfig, {"k": "2"}, "TopKRouterConfig: k: Input should be a valid integer, got '2'"),
        (TopKRouterConfig, {"noise": "yes"}, "TopKRouterConfig: noise: Input should be a valid boolean"),
        (TopKRouterConfig, {"k": None}, "TopKRouterConfig: k: Input should be a valid integer"),
        (TopKRouterConfig, {"k": 0}, "TopKRouterConfig: k: Input should be greater than or equal to 1, got 0; correct"),
        (TopKRouterConfig, {"k": 0, "jitter": 1}, "TopKRouterConfig: k: Input should be greater than or equal to 1"),
        (TopKRouterConfig, {"gate": "softmax"}, "TopKRouterConfig: gate: Input should be 'softmax_topk'"),
        (TopKRouterConfig, {"capacity_factor": 0}, "TopKRouterConfig: capacity_factor: Input should be greater than 0"),
        (TopKRouterConfig, {"capacity_factor": INFINITY}, "capacity_factor: Input should be a finite number, got inf"),
        (TopKRouterConfig, {"bias_rate": NAN}, "TopKRouterConfig: bias_rate: Input should be"),
        (TopKRouterConfig, {"type": "hash"}, "TopKRouterConfig: type: Input should be 'topk', got 'hash'"),
        (TopKRouterConfig, {"a\nb": 1}, "TopKRouterConfig: a b: unknown key"),
        (GLUExpertsConfig, {}, "GLUExpertsConfig: hidden: required, got nothing; give it a value"),
        (GLUExpertsConfig, {"hidden": [1, 2]}, "GLUExpertsConfig: hidden: Input should be a valid integer, got [1, 2]"),
        (MoEConfig, {"num_experts": 4}, "MoEConfig: experts: required, got nothing; give it a value"),
    ],
)
def test_what_is_refused_is_named_in_one_line(make, fields, message):
    with pytest.raises(ValueError) as python:
        make(**fields)
    assert message in str(python.value)
    assert "\n" not in str(python.value)
    with pytest.raises(ValueError) as file:
        from_json(make, json.dumps(fields), "run/config.json")
    assert str(file.value).startswith("run/config.json: ")
    assert message.removeprefix(f"{make.__name__}: ") in str(file.value)
    assert "\n" not in str(file.value)


def test_the_number_of_further_complaints_is_told():
    with pytest.raises(ValueError, match=r" \(and 2 more\)$"):
        TopKRouterConfig(k=0, jitter=2.0, gate="none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "run.json: must be JSON, got EOF while parsing a value at line 1 column 0; mend the file"),
        ('{"num_experts": 4,}', "run.json: must be JSON, got "),
        ("[]", "run.json: Input should be an object"),
        ("null", "run.json: Input should be an object"),
        ('{"num_experts": 4, "experts": {"type": "glux"}}', "run.json: experts: Input tag 'glux' found using 'type'"),
        ('{"num_experts": 4, "experts": {}}', "run.json: experts: Unable to extract tag using discriminator 'type'"),
        (
            '{"num_experts": 4, "experts": {"type": "glu", "hidden": -1}}',
            "run.json: experts.glu.hidden: Input should be",
        ),
        (
            '{"num_experts": 4, "experts": {"type": "glu", "hidden": 1}, "router": {"k": 1}}',
            "run.json: router: k: one expert whose weight is normalised to 1 gives the router no gradient, got k=1",
        ),
    ],
)
def test_wrong_files_are_named_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError) as error:
        from_json(MoEConfig, text, "run.json")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


class Loud:
    def __repr__(self) -> str:
        return "two\nlines"


def test_a_value_that_prints_over_several_lines_is_put_in_one():
    with pytest.raises(ValueError, match=r"got two lines; correct the value$"):
        GLUExpertsConfig(hidden=Loud())


def test_a_missing_file_and_one_that_is_not_text_are_named(tmp_path):
    missing = tmp_path / "missing.json"
    with pytest.raises(ValueError, match=r"missing.json: must be a readable config file, got .*; check the path$"):
        read_json(MoEConfig, missing)
    missing.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"missing.json: must be a readable config file"):
        read_json(MoEConfig, missing)


def test_a_config_of_ones_own_takes_unions_paths_and_tuples(tmp_path):
    @config
    class Small:
        type: Literal["small"] = "small"
        names: tuple[str, ...] = ()
        """what they are called"""

    small = Small(names=("é", "\n", "日本"))
    path = tmp_path / "small.json"
    path.write_text(to_json(small), encoding="utf-8")
    assert read_json(Small, path) == small
