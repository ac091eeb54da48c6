"""Every loss on parts of a batch that know the whole: value and gradient are exactly those of the whole."""

from __future__ import annotations

import typing
from itertools import pairwise

import pytest
import torch
from balance.examples import Situation, agree, situations
from cases import same
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsemix import Routing, TokenInfo
from sparsemix.balance import (
    CommunicationLoss,
    CostLoss,
    DeviceLoss,
    GlobalEntropyLoss,
    ImportanceLoss,
    LoadLoss,
    LocalEntropyLoss,
    LossConfig,
    NullLoss,
    SequenceLoss,
    SwitchLoss,
    ZLoss,
)
from sparsemix.balance.batch import mean_of, with_count
from sparsemix.models.following import add_up

LOSSES = {
    "switch": lambda num_experts: SwitchLoss(),
    "switch, times k": lambda num_experts: SwitchLoss(form="all_times_k"),
    "switch, first choices": lambda num_experts: SwitchLoss(form="first"),
    "GShard": lambda num_experts: SwitchLoss(form="gshard"),
    "z": lambda num_experts: ZLoss(),
    "importance of weights": lambda num_experts: ImportanceLoss(),
    "importance of probabilities": lambda num_experts: ImportanceLoss(form="probs"),
    "load": lambda num_experts: LoadLoss(),
    "device": lambda num_experts: DeviceLoss(num_devices=2 if num_experts % 2 == 0 else 1),
    "communication": lambda num_experts: CommunicationLoss(num_devices=num_experts, devices_per_token=2),
    "local entropy": lambda num_experts: LocalEntropyLoss(),
    "local entropy of a modality": lambda num_experts: LocalEntropyLoss(modality=1),
    "global entropy": lambda num_experts: GlobalEntropyLoss(min_experts=num_experts),
    "global entropy of a modality": lambda num_experts: GlobalEntropyLoss(min_experts=1.5, modality=1),
    "cost": lambda num_experts: CostLoss(costs=tuple(float(e) for e in range(num_experts))),
    "null": lambda num_experts: NullLoss(num_null=(num_experts + 1) // 2),
}
NOT_RAGGED = [SwitchLoss(form=form) for form in ("all_times_k", "first", "gshard")]
LEAVES = ("logits_TE", "probs_TE", "load_TE")
every_loss = pytest.mark.parametrize("loss_of", LOSSES.values(), ids=LOSSES)


def cut(routing: Routing, first: int, last: int) -> Routing:
    """The routing of these tokens, as a router that sees no others would give it."""
    mine_N, rows = (routing.token_N >= first) & (routing.token_N < last), slice(first, last)
    assert routing.info is not None
    return routing._replace(
        token_N=routing.token_N[mine_N] - first,
        expert_N=routing.expert_N[mine_N],
        weight_N=routing.weight_N[mine_N],
        live_N=routing.live_N[mine_N],
        logits_TE=routing.logits_TE[rows],
        probs_TE=routing.probs_TE[rows],
        load_TE=routing.load_TE[rows],
        info=TokenInfo(*(None if field is None else field[rows] for field in routing.info)),
    )


def parts_of(situation: Situation, cuts: list[int]) -> list[tuple[float, Routing]]:
    """Parts and their shares of the valid tokens; some may be empty, or padding alone."""
    ends = [0, *sorted(cuts), len(situation.valid)]
    return [
        (sum(situation.valid[first:last]) / max(sum(situation.valid), 1), cut(situation.routing, first, last))
        for first, last in pairwise(ends)
    ]


def test_no_loss_is_left_out():
    """But that of sequences, which are not cut up; it has a test of its own below."""
    union = typing.get_args(typing.get_args(LossConfig)[0])
    assert {type(loss_of(4)) for loss_of in LOSSES.values()} == {*union} - {SequenceLoss}


@every_loss
@settings(max_examples=50)
@given(situation=situations(min_experts=2), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_parts_that_know_the_whole_add_up_to_it_exactly(loss_of, situation, cuts):
    assume(situation.routing.edges_per_token is not None or loss_of(2) not in NOT_RAGGED)
    loss, cuts = loss_of(situation.num_experts), [min(one, len(situation.valid)) for one in cuts]
    parts = parts_of(situation, cuts)
    (total,) = add_up([(loss.statistic(part),) for _, part in parts])
    whole = loss.statistic(situation.routing)
    assert (total is None) == (whole is None)
    if total is not None:
        assert not total.requires_grad
        same(total, whole, "statistic")
    summed = sum((share * loss(part, total) for share, part in parts), situation.logits_TE.new_zeros(()))
    agree(summed, loss(situation.routing), situation.logits_TE)


@every_loss
@settings(max_examples=25)
@given(situation=situations(min_experts=2, ragged=False))
def test_a_part_that_is_the_whole_is_unchanged_by_knowing_so(loss_of, situation):
    loss = loss_of(situation.num_experts)
    alone = loss(situation.routing)
    agree(loss(situation.routing, loss.statistic(situation.routing)), alone, situation.logits_TE)


@every_loss
@settings(max_examples=25)
@given(situation=situations(min_experts=2, ragged=False))
def test_whatever_padding_holds_has_no_influence(loss_of, situation):
    loss, routing = loss_of(situation.num_experts), situation.routing
    if all(situation.valid):
        return
    padding_T1 = ~routing.info.valid_T[:, None]
    spoilt = routing._replace(
        weight_N=torch.where(padding_T1[routing.token_N, 0], torch.nan, routing.weight_N),
        **{name: torch.where(padding_T1, torch.nan, getattr(routing, name)) for name in LEAVES},
    )
    same(loss(spoilt), loss(routing))


@pytest.mark.parametrize("length", [1, 3])
@given(situation=situations(min_experts=2, num_tokens=6))
def test_sequences_of_one_length_need_to_know_nothing(length, situation):
    """Their loss is a mean over sequences, of which each part has its share."""
    info = TokenInfo(sequence_T=torch.arange(6) // length)
    whole, loss = situation.routing._replace(info=info), SequenceLoss()
    halves = [cut(whole, 0, 3), cut(whole, 3, 6)]
    assert loss.statistic(whole) is None
    agree(sum(loss(half) for half in halves) / 2, loss(whole), situation.logits_TE)


def test_a_mean_is_kept_as_a_sum_and_a_number():
    """So that parts can be added up, those without a valid token too."""
    nothing = cut(one_token(valid=False), 0, 1)
    something = one_token(valid=True)
    sums = [with_count(torch.tensor([3.0]), something), with_count(torch.tensor([0.0]), nothing)]
    assert [one.tolist() for one in sums] == [[3.0, 1.0], [0.0, 0.0]]
    assert mean_of(sum(sums)).tolist() == [3.0]
    assert mean_of(sums[1]).tolist() == [0.0]
    assert mean_of(None) is None


def one_token(valid: bool) -> Routing:
    token_N = torch.zeros(1, dtype=torch.int64)
    ones = torch.ones(1, 1)
    info = TokenInfo(valid_T=torch.tensor([valid]))
    return Routing(token_N, token_N, ones[0], ones[0] > 0, ones, ones, ones, edges_per_token=1, info=info)
