"""Every check of a layer finds the fault that it is there for, and none in a layer without faults."""

import pytest
import torch
from verify.examples import DIM, LAYER, failed, layer, passed, subject

from sparsemix import (
    CapacityConfig,
    GLUExpertsConfig,
    MLPExpertsConfig,
    MoE,
    MoEConfig,
    SelectionBiasConfig,
    TopKRouterConfig,
)
from sparsemix.balance import SwitchLoss, ZLoss
from sparsemix.kernels import activations
from sparsemix.verify import verify_layer
from sparsemix.verify.backends import check_backends
from sparsemix.verify.differences import check_derivatives
from sparsemix.verify.influence import check_layer_influence
from sparsemix.verify.layer import check_layer, check_router
from sparsemix.verify.learning import experts_learn, layer_learning, router_learns
from sparsemix.verify.losses import check_losses

OURS = ("reference", "cpu", "cpp", "native")


def spoil(module, **methods):
    """Give the module other methods, by a class of its own, which its copies share."""
    module.__class__ = type(type(module).__name__, (type(module),), methods)


def wrapped(module, change):
    """Change the module's output; `change` takes the module, the output and the call's own arguments."""
    own = type(module).forward
    spoil(module, forward=lambda self, *args, **kwargs: change(self, own(self, *args, **kwargs), *args))


def test_a_sound_layer_passes_every_check():
    findings = list(verify_layer(subject(layer(), (SwitchLoss(), ZLoss())), OURS))
    assert passed(findings)
    assert all(row.passed for row in findings if "cpp" not in row.check)  # without a compiler that one says so


# --- what experts compute ---------------------------------------------------------------------------------------------


def test_a_wrong_activation_is_found(monkeypatch):
    own = activations.pointwise
    monkeypatch.setattr(activations, "pointwise", lambda name, x: own("gelu" if name == "silu" else name, x))
    moe = layer()
    assert failed(check_backends(subject(moe), ("reference", "cpu"))) == ["experts by reference", "experts by cpu"]
    assert failed(check_layer(subject(moe)))


def test_gate_and_up_exchanged_are_found(monkeypatch):
    own = activations.gate_and_up
    monkeypatch.setattr(activations, "gate_and_up", lambda h, interleaved: own(h, interleaved)[::-1])
    assert failed(check_backends(subject(layer()), ["cpu"]))


def test_a_gradient_that_is_doubled_is_found_though_the_output_is_right(monkeypatch):
    own = activations.pointwise_backward
    monkeypatch.setattr(activations, "pointwise_backward", lambda name, grad, x, out: own(name, 2 * grad, x, out=out))
    found = list(check_backends(subject(layer()), ["cpu"]))
    assert failed(found)
    assert "gradient" in found[0].worst


def test_one_expert_that_is_dropped_is_found():
    def drop_last(router, routing, *_):
        live_N = routing.expert_N != router.num_experts - 1
        return routing._replace(live_N=live_N if routing.live_N is None else live_N & routing.live_N)

    moe = layer()
    wrapped(moe.router, drop_last)
    assert failed(check_router(subject(moe)))


def test_experts_whose_rows_are_mixed_up_are_found():
    moe = layer()
    wrapped(moe.experts, lambda experts, output, x, dispatch: (output[0].flip(0), output[1]))
    assert failed(check_layer(subject(moe)))
    assert failed(check_backends(subject(moe), ["cpu"]))


def test_a_shared_expert_without_its_gate_is_found():
    moe = layer()
    moe._gated = lambda x, y: y
    assert failed(check_layer(subject(moe)))


def test_a_forgotten_scale_is_found():
    moe = layer()
    wrapped(moe, lambda self, output, x, *_: (output[0] / self.routed_scale, output[1]))
    assert failed(check_layer(subject(moe)))


def test_an_unset_bias_of_the_down_projection_is_found():
    moe = layer()
    own = type(moe.experts)._weights
    spoil(moe.experts, _weights=lambda experts: own(experts)._replace(down_bias_ED=None))
    assert failed(check_layer(subject(moe)))


def test_a_fault_in_generation_alone_is_found():
    moe = layer()
    own = type(moe.experts).one_token

    def doubled(experts, x_1D, routing):
        y_1D = own(experts, x_1D, routing)
        return None if y_1D is None else 2 * y_1D

    spoil(moe.experts, one_token=doubled)
    finding = check_layer(subject(moe))
    assert finding.passed is False
    assert finding.worst == "output, one token without gradient"


# --- what routers choose ----------------------------------------------------------------------------------------------


def test_a_forgotten_router_bias_is_found():
    moe = layer()
    own = type(moe.router).logits
    spoil(moe.router, logits=lambda self, x_TD: own(self, x_TD) - self.bias_E)
    assert failed(check_router(subject(moe)))


def test_a_forgotten_selection_bias_is_found():
    config = MoEConfig(
        num_experts=6,
        router=TopKRouterConfig(k=2, gate="sigmoid", selection_bias=SelectionBiasConfig()),
        experts=GLUExpertsConfig(hidden=12),
    )
    moe = layer(config)
    moe.router.selection_bias.bias_E.copy_(torch.linspace(-1, 1, 6))
    assert passed(check_router(subject(moe)))
    spoil(moe.router.selection_bias, forward=lambda self, scores_TE: scores_TE)
    assert failed(check_router(subject(moe)))


def test_a_second_best_expert_is_found():
    def swap(router, routing, *_):
        worst_N = (routing.expert_N + 1) % router.num_experts
        return routing._replace(expert_N=worst_N)

    moe = layer()
    wrapped(moe.router, swap)
    assert failed(check_router(subject(moe)))


def test_a_second_best_expert_is_found_though_only_float32_chooses_it():
    def swap(router, routing, x_TD, *_):
        if x_TD.dtype == torch.float64:
            return routing
        other_N = (routing.expert_N + 1) % router.num_experts
        weight_TE = routing.logits_TE.softmax(-1) * torch.zeros_like(routing.logits_TE).index_put(
            (routing.token_N, other_N), torch.ones_like(routing.weight_N)
        )
        weight_TE = weight_TE / weight_TE.sum(-1, keepdim=True)
        return routing._replace(expert_N=other_N, weight_N=weight_TE[routing.token_N, other_N])

    moe = layer()
    wrapped(moe.router, swap)
    assert passed(check_router(subject(moe)))
    finding = check_layer(subject(moe))
    assert finding.passed is False
    assert finding.worst.startswith("choices")


def test_weights_that_are_not_normalised_are_found():
    moe = layer()
    wrapped(moe.router, lambda router, routing, *_: routing._replace(weight_N=0.9 * routing.weight_N))
    assert failed(check_router(subject(moe)))
    assert failed(check_layer(subject(moe)))


def test_a_softmax_of_the_softmax_for_the_losses_is_found():
    moe = layer()
    wrapped(moe.router, lambda router, routing, *_: routing._replace(probs_TE=routing.probs_TE.softmax(-1)))
    assert failed(check_router(subject(moe)))


def test_edges_of_padding_that_live_are_found():
    moe = layer()
    wrapped(moe.router, lambda router, routing, *_: routing._replace(live_N=None))
    assert failed(check_router(subject(moe)))


def test_a_router_that_looks_ahead_is_found():
    moe = layer()
    own = type(moe.router).forward
    spoil(moe.router, forward=lambda self, x_TD, *others: own(self, x_TD + x_TD.mean(0), *others))
    assert "causality" in failed(check_layer_influence(subject(moe)))


def test_padding_that_reaches_others_is_found():
    moe = layer()
    own = type(moe.router).forward

    def moved_by_padding(router, x_TD, info, previous):
        shift = 0 if info.valid_T is None else x_TD[~info.valid_T].mean()
        return own(router, x_TD + shift, info, previous)

    spoil(moe.router, forward=moved_by_padding)
    assert failed(check_layer_influence(subject(moe))) == ["padding"]


# --- what learns ------------------------------------------------------------------------------------------------------


def test_a_detached_router_is_found():
    moe = layer()
    wrapped(moe.router, lambda router, routing, *_: routing._replace(weight_N=routing.weight_N.detach()))
    assert failed(check_layer(subject(moe)))
    assert failed(check_derivatives(subject(moe)))
    assert failed(router_learns(layer_learning(subject(moe))))


def test_a_router_with_a_frozen_parameter_is_found():
    moe = layer()
    moe.router.weight_ED.requires_grad_(False)
    finding = router_learns(layer_learning(subject(moe)))
    assert finding.passed is False
    assert "weight_ED is frozen" in finding.detail


def test_weights_whose_gradient_is_no_derivative_are_found():
    """Forward as it should be, and half the gradient: a loop that takes the router's word would not see it."""
    moe = layer()

    def halved(router, routing, *_):
        weight_N = routing.weight_N
        return routing._replace(weight_N=weight_N / 2 + weight_N.detach() / 2)

    wrapped(moe.router, halved)
    assert failed(check_derivatives(subject(moe)))


def test_an_expert_that_is_cut_off_the_graph_is_found():
    moe = layer()
    own = type(moe.experts)._weights

    def cut_off(experts):
        weights = own(experts)
        down = torch.cat([weights.down_EDF[:-1], weights.down_EDF[-1:].detach()])
        return weights._replace(down_EDF=down)

    spoil(moe.experts, _weights=cut_off)
    finding = experts_learn(layer_learning(subject(moe)))
    assert finding.passed is False
    assert "experts 5" in finding.detail
    assert failed(check_derivatives(subject(moe)))


def test_experts_that_nobody_chose_are_listed_and_are_no_fault():
    moe = layer()
    with torch.no_grad():
        moe.router.bias_E[4] = -1e4
    finding = experts_learn(layer_learning(subject(moe)))
    assert finding.passed
    assert "1 of 6 have none: experts 4" in finding.detail


def test_nan_in_a_weight_is_found():
    moe = layer()
    with torch.no_grad():
        moe.experts.down_EDF[0, 0, 0] = torch.nan
    assert failed(check_layer(subject(moe)))
    assert failed(check_backends(subject(moe), ["cpu"]))


# --- balance losses ---------------------------------------------------------------------------------------------------


class Spoilt(SwitchLoss):
    """A switch loss with a fault."""

    def __call__(self, routing, total=None):
        probs_TE = routing.probs_TE
        return super().__call__(routing._replace(probs_TE=self.spoil(probs_TE)), total)


class SoftmaxTwice(Spoilt):
    def spoil(self, probs_TE):
        return probs_TE.softmax(-1)


class Detached(Spoilt):
    def spoil(self, probs_TE):
        return probs_TE.detach()


class DoubledGradient(Spoilt):
    def spoil(self, probs_TE):
        return 2 * probs_TE - probs_TE.detach()


class WithPadding(SwitchLoss):
    def __call__(self, routing, total=None):
        return super().__call__(routing._replace(info=None), total)


class Live(SwitchLoss):
    """Counts what is computed rather than what is chosen, which makes a collapsed router look balanced."""

    def __call__(self, routing, total=None):
        if routing.live_N is None:
            return super().__call__(routing, total)
        kept = {name: getattr(routing, name)[routing.live_N] for name in ("token_N", "expert_N", "weight_N")}
        return super().__call__(routing._replace(**kept, live_N=None, edges_per_token=None), total)


@pytest.mark.parametrize("loss", [SoftmaxTwice, Detached, DoubledGradient, WithPadding], ids=lambda kind: kind.__name__)
def test_a_balance_loss_with_a_fault_is_found(loss):
    assert failed(check_losses(subject(layer(), [loss()])))


def test_a_loss_that_counts_what_is_left_after_dropping_is_found():
    config = MoEConfig(
        num_experts=6,
        router=TopKRouterConfig(k=2, capacity=CapacityConfig(factor=0.5)),
        experts=MLPExpertsConfig(hidden=8),
    )
    assert passed(check_losses(subject(layer(config), [SwitchLoss()])))
    assert failed(check_losses(subject(layer(config), [Live()])))


def test_two_losses_of_the_same_formula_but_another_form_are_told_apart():
    """`all_times_k` is k times `all`: an even load, one choice a token, would not show it."""
    assert passed(check_losses(subject(layer(), [SwitchLoss(form="all_times_k")])))

    class Claims(SwitchLoss):
        def __call__(self, routing, total=None):
            return SwitchLoss(form="all")(routing, total)

    assert failed(check_losses(subject(layer(), [Claims(form="all_times_k")])))


def test_a_layer_is_given_back_as_it_was():
    moe = layer().eval()
    before = {name: tensor.clone() for name, tensor in moe.state_dict().items()}
    config = moe.experts.config
    list(verify_layer(subject(moe, [SwitchLoss()]), ("reference", "cpu")))
    assert all(tensor.equal(before[name]) for name, tensor in moe.state_dict().items())
    assert moe.experts.config is config
    assert not any(module.training for module in moe.modules())
    assert all(parameter.grad is None for parameter in moe.parameters())


def test_the_same_twice():
    results = [
        [row._replace(detail="") for row in verify_layer(subject(layer(), [ZLoss()]), ("cpu",))] for _ in range(2)
    ]
    assert results[0] == results[1]


def test_a_layer_of_another_shape_of_output_is_verified_too():
    moe = MoE(layer().router, LAYER.experts.build(DIM, 6, 5))
    assert passed(verify_layer(subject(moe), ("reference", "cpu")))
