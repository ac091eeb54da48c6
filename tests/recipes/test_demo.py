"""The whole demo, on a corpus and at a size that take a second or two."""

import json
from dataclasses import replace

import pytest

from sparsemix.inference import generate_text
from sparsemix.models.counts import count_by_tensors
from sparsemix.recipes.arena import DemoConfig
from sparsemix.recipes.demo import demo, twins
from sparsemix.train.saving import load_run


def test_demo_leaves_models_and_a_summary(tmp_path, training, capsys):
    out = tmp_path / "demo"
    settings = DemoConfig(steps=20, evaluate_every=5, out=str(out), prompt="verse ", sample_tokens=8)
    demo(settings, training)
    summary = json.loads((out / "summary.json").read_text())
    assert {"speedup_steps", "speedup_flops", "speedup_seconds", "loss_at_equal_seconds", "level"} <= set(summary)
    for name, model in twins(replace(training.model, vocab_size=257)).items():
        found, counts = summary[name], count_by_tensors(model, 32)
        assert found["parameters_total"] == counts.parameters_total
        assert found["parameters_active"] == counts.parameters_active
        assert found["flops_per_token"] == counts.flops_per_token
        assert [point["step"] for point in found["curve"]] == [5, 10, 15, 16, 20]
        assert found["curve"][-1]["loss"] == found["final_loss"] < found["curve"][0]["loss"]
        assert found["tokens"] == 20 * 4 * 32
        assert found["seconds"] > 0
        assert set(found["final_loss_by_domain"]) == {"verse", "prose"}
        run = load_run(out / name)
        assert run.step == run.config.steps == 20
        assert len(generate_text(run.model, run.tokenizer, ["verse"], max_new_tokens=5)[0]) > 0
    assert (out / "curves.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "the MoE writes" in printed
    assert "After equal seconds" in printed


def test_a_second_demo_replaces_the_first_and_learns_the_same(tmp_path, training):
    out = tmp_path / "demo"
    settings = DemoConfig(steps=12, evaluate_every=4, out=str(out), sample_tokens=0)
    first, second = demo(settings, training), demo(settings, training)
    losses = [[point.loss for point in one.curve] for one in (first.moe, second.moe, first.dense, second.dense)]
    assert losses[0] == losses[1]
    assert losses[2] == losses[3]
    assert losses[0] != losses[2]


def test_a_demo_of_a_single_evaluation_still_tells_who_won(tmp_path, training, capsys):
    outcome = demo(DemoConfig(steps=10, out=str(tmp_path / "demo"), prompt="verse ", sample_tokens=0), training)
    assert outcome.stable_steps == 8
    assert {"After equal steps", "After equal seconds"} <= {
        line.partition(":")[0] for line in capsys.readouterr().out.splitlines()
    }


def test_a_folder_with_anything_else_is_left_alone(tmp_path, training):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"out: must be a new folder or one of a demo, got .* with corpus, thesis.txt"):
        demo(DemoConfig(steps=10, out=str(tmp_path)), training)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "thesis.txt"]


def test_a_prompt_that_cannot_be_continued_is_refused_before_training(tmp_path, training):
    with pytest.raises(ValueError, match=r"prompt: must leave room for 120 more of 32 tokens, got 4 tokens"):
        demo(DemoConfig(steps=10, out=str(tmp_path / "demo")), training)
