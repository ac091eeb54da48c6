"""Dense models of one shape become one mixture; whatever is not of one shape is named."""

from __future__ import annotations

import pytest
import torch
from surgery.models import HIDDEN, built, change, dense, logits, sparse

from sparsemix import MLPExpertsConfig, MoE, TopKRouterConfig
from sparsemix.interop.stored import StoredModel
from sparsemix.models import AttentionConfig
from sparsemix.surgery import MergeDenseConfig, merge_dense


def test_models_that_are_alike_are_one_model() -> None:
    for rest in ("mean", "first"):
        assert change(dense(), merge_dense([dense(), dense(), dense()], MergeDenseConfig(rest=rest))) < 1e-10


def test_each_expert_is_the_ffn_of_a_model() -> None:
    models = [dense(seed, MLPExpertsConfig(hidden=HIDDEN, bias=True)) for seed in range(3)]
    after = merge_dense(models, MergeDenseConfig()).model
    for number, model in enumerate(models):
        for was, now in [("up_FD", "up_EFD"), ("down_DF", "down_EDF"), ("up_bias_F", "up_bias_EF")]:
            expert = after.tensors.read(f"blocks.1.ffn.experts.{now}")[number]
            assert torch.equal(expert, model.tensors.read(f"blocks.1.ffn.{was}"))


def test_other_weights_are_the_mean_or_the_first_models() -> None:
    models, name = [dense(seed) for seed in range(3)], "blocks.0.attention.query.weight"
    weights = [model.tensors.read(name) for model in models]
    mean, first = (merge_dense(models, MergeDenseConfig(rest=rest)).model.tensors for rest in ("mean", "first"))
    torch.testing.assert_close(mean.read(name), sum(weights) / 3)
    assert torch.equal(first.read(name), weights[0])


def test_models_that_differ_make_a_model_that_theory_says_nothing_of() -> None:
    models = [dense(seed) for seed in range(2)]
    after = merge_dense(models, MergeDenseConfig(rest="first"))
    assert not after.theory.exact
    assert logits(after.model).isfinite().all()
    assert change(models[0], after) > 1e-4


def test_every_block_with_an_ffn_has_the_mixture() -> None:
    """Which blocks would be dense says nothing in a config without mixtures."""
    models = [dense(seed, dense_first=1, dense_layers=(1,), without_ffn=(2,), num_layers=3) for seed in range(2)]
    after = merge_dense(models, MergeDenseConfig()).model
    assert [isinstance(block.ffn, MoE) for block in built(after).blocks] == [True, True, False]


def test_each_tensor_is_read_once() -> None:
    models = [dense(seed) for seed in range(2)]
    built(merge_dense(models, MergeDenseConfig()).model)
    assert [set(model.tensors.reads.values()) for model in models] == [{1}, {1}]


@pytest.mark.parametrize(
    ("models", "complaint"),
    [
        (lambda: [dense()], "models: must be at least two"),
        (lambda: [dense(), sparse()], "model: must be dense"),
        (lambda: [dense(), dense(num_layers=3)], "model 1: num_layers: must be 2 as in the first, got 3"),
        (lambda: [dense(), dense(vocab_size=18)], "model 1: vocab_size"),
        (lambda: [dense(), dense(attention=AttentionConfig(num_heads=4))], "model 1: attention"),
    ],
)
def test_refuses(models, complaint) -> None:
    with pytest.raises(ValueError, match=complaint):
        merge_dense(models(), MergeDenseConfig())


def test_refuses_another_tokenizer_but_not_another_chat_template(tmp_path) -> None:
    def models(name: str) -> list[StoredModel]:
        files = [tmp_path / str(number) / name for number in range(2)]
        for number, file in enumerate(files):
            file.parent.mkdir(exist_ok=True)
            file.write_text(str(number))
        return [dense()._replace(files=(file,)) for file in files]

    merge_dense(models("tokenizer_config.json"), MergeDenseConfig())
    with pytest.raises(ValueError, match=r"model 1: tokenizer\.json: must be the first one's"):
        merge_dense(models("tokenizer.json"), MergeDenseConfig())
    with pytest.raises(ValueError, match=r"model 1: tokenizer\.json: must be the first one's"):
        merge_dense([models("tokenizer.json")[0], dense()], MergeDenseConfig())


def test_refuses_weights_of_which_there_cannot_be_so_many() -> None:
    with pytest.raises(ValueError, match="k: must be in"):
        merge_dense([dense(), dense()], MergeDenseConfig(router=TopKRouterConfig(k=3)))
