"""Which parts a config has: of another kind, there for the first time, or gone, and with what in them."""

from dataclasses import replace

import pytest

from sparsemix.cli.kinds import choose_kinds
from sparsemix.cli.train import read
from sparsemix.config import to_json
from sparsemix.data import BPETokenizerConfig
from sparsemix.experts import (
    ConcatExpertsConfig,
    CopyExpertsConfig,
    GLUExpertsConfig,
    MLPExpertsConfig,
    Part,
    ZeroExpertsConfig,
)
from sparsemix.models import AttentionConfig, LatentAttentionConfig, WindowConfig, YarnConfig
from sparsemix.routers import (
    CapacityConfig,
    GroupLimitedRouterConfig,
    HashRouterConfig,
    LIMoERouterConfig,
    NoisyTopKRouterConfig,
    SelectionBiasConfig,
    SwitchRouterConfig,
    TopKRouterConfig,
)
from sparsemix.train import AdamWConfig, TrainConfig

DEFAULT = TrainConfig()


def given(line: str) -> TrainConfig:
    return read(["--out", "new", *line.split()]).resolved


def router_of(line: str):
    return given(line).model.moe.router


# --- another kind ----------------------------------------------------------------------------------------------------


def test_a_part_of_another_kind_has_the_defaults_of_its_kind():
    rest, config = choose_kinds(
        ["--steps", "3", "--optimizer.type", "adamw", "--data.tokenizer.type=bpe", "--optimizer.lr", "1"], DEFAULT
    )
    assert rest == ["--steps", "3", "--optimizer.lr", "1"]
    data = replace(DEFAULT.data, tokenizer=BPETokenizerConfig())
    assert config == replace(DEFAULT, optimizer=AdamWConfig(), data=data)
    assert given("--steps 3 --optimizer.type adamw --optimizer.lr 1").optimizer == AdamWConfig(lr=1.0)


@pytest.mark.parametrize(
    ("line", "router"),
    {
        "--model.moe.router.type switch": SwitchRouterConfig(),
        "--model.moe.router.type=noisy_topk --model.moe.router.k 3": NoisyTopKRouterConfig(k=3),
        "--model.moe.router.k 3 --model.moe.router.type noisy_topk": NoisyTopKRouterConfig(k=3),
        "--model.moe.router.type limoe --model.moe.router.min-experts 3 2.5 --model.moe.router.local 1": (
            LIMoERouterConfig(min_experts=(3.0, 2.5), local=(1,))
        ),
        "--model.moe.router.type topk --model.moe.router.gate sigmoid": TopKRouterConfig(gate="sigmoid"),
        "--model.moe.router.type hash --model.moe.router.vocab-size 257": HashRouterConfig(vocab_size=257),
        "--model.moe.router.type group_limited --model.moe.router.selection-bias None": GroupLimitedRouterConfig(
            selection_bias=None
        ),
    }.items(),
)
def test_a_router_of_another_kind_brings_its_flags(line, router):
    assert router_of(line) == router


def test_what_has_no_default_is_taken_over_or_given():
    """The size of experts."""
    hidden = DEFAULT.model.moe.experts.hidden
    assert given("--model.moe.experts.type mlp").model.moe.experts == MLPExpertsConfig(hidden=hidden)
    assert given("--model.moe.experts.type mlp --model.moe.experts.hidden 5").model.moe.experts.hidden == 5
    assert given("--model.moe.experts.type zero").model.moe.experts == ZeroExpertsConfig()
    shared = "--model.moe.shared.hidden=5 --model.moe.shared.type glu --model.moe.shared.activation gelu"
    assert given(shared).model.moe.shared == GLUExpertsConfig(hidden=5, activation="gelu")


def test_what_is_taken_over_may_be_a_part_itself(tmp_path):
    experts = ConcatExpertsConfig(parts=(Part(num_experts=16, experts=GLUExpertsConfig(hidden=8)),))
    path = tmp_path / "config.json"
    path.write_text(
        to_json(replace(DEFAULT, model=replace(DEFAULT.model, moe=replace(DEFAULT.model.moe, experts=experts))))
    )
    assert given(f"--config {path} --model.moe.experts.type concat").model.moe.experts == experts
    assert given(f"--config {path} --model.moe.experts.type copy").model.moe.experts == CopyExpertsConfig()


def test_words_that_belong_to_no_flag_are_left_for_complaints():
    assert choose_kinds(["stray", "--optimizer.type", "adamw", "more"], DEFAULT)[0] == ["stray", "more"]
    with pytest.raises(ValueError, match=r"^more: must be a flag there is, got 'more'"):
        given("--optimizer.type adamw more")


# --- there for the first time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "router"),
    {
        "--model.moe.router.capacity.factor 2": TopKRouterConfig(capacity=CapacityConfig(factor=2.0)),
        "--model.moe.router.capacity.group-size=64 --model.moe.router.capacity.priority token": TopKRouterConfig(
            capacity=CapacityConfig(group_size=64, priority="token")
        ),
        "--model.moe.router.capacity.no-count-choices": TopKRouterConfig(capacity=CapacityConfig(count_choices=False)),
        "--model.moe.router.selection_bias.rate 0.1": TopKRouterConfig(selection_bias=SelectionBiasConfig(rate=0.1)),
        "--model.moe.router.capacity.factor 2 --model.moe.router.type noisy_topk": NoisyTopKRouterConfig(
            capacity=CapacityConfig(factor=2.0)
        ),
    }.items(),
)
def test_a_part_that_is_none_comes_to_be_with_the_first_flag_of_it(line, router):
    assert router_of(line) == router


def test_a_part_that_is_there_stays_as_it_is_but_for_its_flags():
    capacity = CapacityConfig(factor=1.25, factor_eval=4.0)
    line = "--model.moe.router.type switch --model.moe.router.capacity.factor-eval 4"
    assert router_of(line) == SwitchRouterConfig(capacity=capacity)


# --- gone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [" None", "=None"])
def test_a_part_that_need_not_be_there_goes_with_none(word):
    assert router_of(f"--model.moe.router.type switch --model.moe.router.capacity{word}") == SwitchRouterConfig(
        capacity=None
    )


def test_a_part_of_the_file_goes_too(tmp_path):
    path = tmp_path / "config.json"
    router = TopKRouterConfig(selection_bias=SelectionBiasConfig())
    model = replace(DEFAULT.model, moe=replace(DEFAULT.model.moe, router=router))
    path.write_text(to_json(replace(DEFAULT, model=model)))
    assert given(f"--config {path} --model.moe.router.selection-bias None") == DEFAULT


def test_a_value_that_is_none_is_no_part():
    assert given("--clip-norm None") == replace(DEFAULT, clip_norm=None)


def test_a_dense_model():
    model = given("--model.moe None --model.ffn.type glu --model.ffn.hidden 256").model
    assert (model.moe, model.ffn) == (None, GLUExpertsConfig(hidden=256))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "complaint"),
    {
        "--optimizer.type sgd": "--optimizer.type: optimizer: .*'adamw', 'muon', got {'type': 'sgd'}",
        "--model.moe.router.type hash": "--model.moe.router.type: model.moe.router.hash.vocab_size: required",
        "--optimizer.type": "--optimizer.type: optimizer: .*got {'type': ''}",
        "--model.moe.router.type topq": "--model.moe.router.type: model.moe.router: Input tag 'topq' found",
        "--nowhere.type x": "--nowhere.type: must name a part of the config, got '--nowhere.type'; see --help",
        "--model.nowhere.deep.type x": "--model.nowhere.deep.type: must name a part",
        "--model.moe.router.type limoe": "--model.moe.router.type: model.moe.router.limoe.min_experts: required, got",
        "--model.ffn.type mlp": "--model.ffn.type: model.ffn.mlp.hidden: required, got nothing",
        "--steps.type x": "--steps.type: steps: Input should be a valid integer",
        "--model.moe.shared.hidden 5": "--model.moe.shared.type: must be given to a part that was none, got nothing; "
        "choose among glu, ",
        "--model.moe.shared.type glu --model.moe.shared.hidden five": "--model.moe.shared.type: model.moe.shared.glu"
        ".hidden: Input should be a valid integer, .*got 'five'",
        "--model.moe.router.capacity.factor 0": "CapacityConfig: factor: Input should be greater than 0, got 0.0",
        "--model.moe.router.capacity.factr 2": "--model.moe.router.capacity.factr: must be a flag there is, .*; did "
        "you mean --model.moe.router.capacity.factor",
        "--clip-norm.deep 2": "--clip-norm.deep: must be a flag there is",
        "--optimizer None": "--optimizer: must be a flag there is",
    }.items(),
)
def test_what_cannot_be_is_refused_in_one_line(line, complaint):
    with pytest.raises(ValueError, match=f"^{complaint}") as caught:
        given(line)
    assert "\n" not in str(caught.value)


# --- attention -------------------------------------------------------------------------------------------------------


def test_attention_of_another_kind_keeps_its_heads():
    heads = DEFAULT.model.attention.num_heads
    assert given("--model.attention.type latent").model.attention == LatentAttentionConfig(num_heads=heads)
    line = "--model.attention.type latent --model.attention.num-heads 2 --model.attention.q-rank 32"
    assert given(line).model.attention == LatentAttentionConfig(num_heads=2, q_rank=32)


def test_attention_with_windows_sinks_and_a_stretched_context():
    line = "--model.window.size 16 --model.window.layers 0 2 --model.attention.sinks --model.attention.num-heads 2"
    scaling = "--model.attention.rope-scaling.type yarn --model.attention.rope-scaling.factor 4"
    model = given(f"{line} {scaling} --model.attention.rope-scaling.original-context 64").model
    assert model.window == WindowConfig(size=16, layers=(0, 2))
    yarn = YarnConfig(factor=4, original_context=64)
    assert model.attention == AttentionConfig(num_heads=2, sinks=True, rope_scaling=yarn)


def test_which_scaling_must_be_said():
    with pytest.raises(ValueError, match=r"rope_scaling.type: must be given .*; choose among linear, llama3, yarn"):
        given("--model.attention.rope-scaling.factor 2")
