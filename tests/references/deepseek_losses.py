"""DeepSeek's balance losses: by expert, device and communication (V2), and by sequence (V3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from references.capacity import Choices
from references.losses import Valid, counts, dot, mean_of_valid, switch_loss


def expert_factors(choices: Choices, num_experts: int, valid: Valid) -> list[float]:
    """f_i = N' / (K' T) times the tokens that select i; K' T is the number of all choices, also where it varies."""
    load = counts(choices, num_experts, valid)
    return [num_experts * count / max(sum(load), 1) for count in load]


def expert_level_loss(probs_TE: Tensor, choices: Choices, valid: Valid) -> Tensor:
    """sum_i f_i P_i over the routed experts, shared ones left out."""
    return dot(expert_factors(choices, probs_TE.shape[1], valid), mean_of_valid(list(probs_TE), valid))


def device_level_loss(probs_TE: Tensor, choices: Choices, devices: Sequence[Sequence[int]], valid: Valid) -> Tensor:
    """sum_d f'_d P'_d with f' the mean of f over the device's experts and P' the sum of P."""
    f = expert_factors(choices, probs_TE.shape[1], valid)
    mean_E = mean_of_valid(list(probs_TE), valid)
    loss = probs_TE.new_zeros(())
    for device in devices:
        loss = loss + sum(f[e] for e in device) / len(device) * sum(mean_E[e] for e in device)
    return loss


def communication_loss(
    probs_TE: Tensor, choices: Choices, devices: Sequence[Sequence[int]], max_devices: int, valid: Valid
) -> Tensor:
    """sum_d f''_d P''_d with f'' = D / (M T) times the tokens sent to device d, each once, and P'' the sum of P."""
    mean_E = mean_of_valid(list(probs_TE), valid)
    loss = probs_TE.new_zeros(())
    for device in devices:
        sent = sum(any(e in device for e in chosen) for chosen, is_valid in zip(choices, valid) if is_valid)
        factor = len(devices) / (max_devices * max(sum(valid), 1)) * sent
        loss = loss + factor * sum(mean_E[e] for e in device)
    return loss


def sequence_losses(probs_TE: Tensor, choices: Choices, sequence: Sequence[int], valid: Valid) -> dict[int, Tensor]:
    """V3: E sum_i f_i P_i of each sequence that has valid tokens; `probs_TE` is s_i / sum_j s_j."""
    found = {}
    for wanted in sorted({s for s, is_valid in zip(sequence, valid) if is_valid}):
        mine = [is_valid and s == wanted for s, is_valid in zip(sequence, valid)]
        found[wanted] = switch_loss(probs_TE, choices, mine)
    return found


def sequence_loss(
    probs_TE: Tensor, choices: Choices, sequence: Sequence[int], valid: Valid, by_tokens: bool = False
) -> Tensor:
    """The mean of the sequences' losses, which V3 leaves open: each sequence alike, or `by_tokens` by its length."""
    losses = sequence_losses(probs_TE, choices, sequence, valid)
    lengths = {s: sum(v and t == s for t, v in zip(sequence, valid)) if by_tokens else 1 for s in losses}
    total = sum((lengths[s] * loss for s, loss in losses.items()), probs_TE.new_zeros(()))
    return total / max(sum(lengths.values()), 1)
