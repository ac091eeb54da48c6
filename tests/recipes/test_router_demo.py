"""The demo of one router, the loads that it reports, and the recipes of all of them."""

import json
from dataclasses import replace

import pytest
import torch
from routers.examples import EVERY_ROUTER, experts_for
from train.examples import random_batch, tiny_model

from sparsemix.layer import MoEConfig
from sparsemix.models import evaluating
from sparsemix.models.counts import count_by_formula
from sparsemix.recipes.arena import DemoConfig
from sparsemix.recipes.demo import TRAINING, demo
from sparsemix.recipes.loads import held_out_loads
from sparsemix.recipes.router_demo import router_demo
from sparsemix.recipes.routers import RECIPES
from sparsemix.routers import CapacityConfig, NullRouterConfig, TopKRouterConfig
from sparsemix.routing import Routing
from sparsemix.train import Precision, load_run
from sparsemix.train.batch import to_tensors

# --- recipes ---------------------------------------------------------------------------------------------------------


def test_every_kind_of_router_has_a_recipe_unless_it_is_not_causal():
    served = {type(one.apply(TRAINING.model).moe.router) for one in RECIPES.values()}
    left_out = {name: config for name, config in EVERY_ROUTER.items() if type(config) not in served}
    assert len(left_out) > 0
    assert not any(config.causal for config in left_out.values())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_costs_a_token_about_what_the_demo_does(name):
    """Routers of two levels, with noise or with many small experts do a little more than one matrix."""
    model = RECIPES[name].apply(TRAINING.model)
    wanted, found = (count_by_formula(one).parameters_active for one in (TRAINING.model, model))
    assert model.moe.num_experts == TRAINING.model.moe.num_experts
    assert found / wanted == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_with_the_losses_of_its_paper(name, training):
    model = replace(TRAINING.model, vocab_size=257, dim=16, context=32)
    trainer = replace(training, model=RECIPES[name].apply(model)).build()
    report = trainer.step([random_batch()])
    assert not report.skipped


# --- loads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "router",
    [
        TopKRouterConfig(k=2),
        TopKRouterConfig(k=2, capacity=CapacityConfig(factor=0.5, factor_eval=0.5)),
        NullRouterConfig(k=3, num_null=2),
    ],
    ids=["topk", "capacity", "null"],
)
def test_loads_are_choices_and_what_is_not_computed_is_told_apart(router):
    moe = MoEConfig(num_experts=4, router=router, experts=experts_for(router, 4, hidden=8))
    model, cheap = tiny_model(moe=moe, allow_leak=True).build(), 2 if router.type == "null" else 0
    batches = [("any", random_batch(seed=seed)) for seed in (0, 1)]
    routings: list[Routing] = []
    with torch.no_grad(), evaluating(model):
        for _, batch in batches:
            tokens_BS = to_tensors(batch, torch.device("cpu")).tokens_BS
            routings += model(tokens_BS, collect=lambda layer, routing: routing).collected
    for found in held_out_loads(model, batches, Precision()):
        chosen = routings[found.layer :: 2]
        load_E = torch.bincount(torch.cat([routing.expert_N for routing in chosen]), minlength=4)
        dead = sum(0 if routing.live_N is None else int((~routing.live_N).sum()) for routing in chosen)
        assert found.load_E.equal(load_E)
        costly_E = load_E[: 4 - cheap]
        assert found.fullest == pytest.approx(int(costly_E.max()) / (int(costly_E.sum()) / len(costly_E)))
        assert found.idle == int((costly_E == 0).sum()) / len(costly_E)
        assert found.edges_per_token == router.k
        assert found.dropped == pytest.approx(dead / int(load_E.sum()))
        assert (dead > 0) == (router != TopKRouterConfig(k=2))


# --- the demo --------------------------------------------------------------------------------------------------------


def test_it_leaves_two_runs_and_a_summary_in_place_of_an_earlier_demo(tmp_path, training, capsys):
    settings = DemoConfig(steps=10, evaluate_every=5, out=str(tmp_path / "demo"), prompt="verse ", sample_tokens=4)
    demo(settings, training)
    outcome = router_demo(replace(settings, router="switch"), training)
    assert sorted(path.name for path in settings.folder.iterdir()) == ["data", "moe", "summary.json", "without"]
    assert (load_run(settings.folder / "without").config.model.moe, outcome.router) == (None, "switch")
    assert load_run(settings.folder / "moe").config.model.moe.router.type == "switch"
    summary = json.loads((settings.folder / "summary.json").read_text())
    assert summary["gain"] == summary["without"]["final_loss"] - summary["moe"]["final_loss"] == outcome.gain
    assert summary["fullest_over_mean"] == max(one["fullest_over_mean"] for one in summary["layers"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "switch (Fedus et al. 2021, 2101.03961), 10 steps" in printed
    assert f"{outcome.fullest:.2f} times the mean load" in printed
    assert "the MoE writes" in printed


@pytest.mark.parametrize("name", ["swich", "expert_choice"])
def test_a_router_without_a_recipe_is_refused_before_anything_is_written(name, tmp_path, training):
    complaint = rf"^router: must be one of .*, switch, .*, got '{name}'; choose one; a router that is not causal has"
    with pytest.raises(ValueError, match=complaint):
        router_demo(DemoConfig(router=name, out=str(tmp_path / "demo")), training)
    assert not (tmp_path / "demo").exists()
