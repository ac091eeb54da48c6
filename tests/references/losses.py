"""Balance losses: CV^2 of importance and load, the switch family, router z-loss, entropies and penalties.

Padding (`valid` False) is in no count and no mean; an empty batch has loss 0. Counts are of choices, kept or not, and
carry no gradient. `choices` holds the experts of each token, best first; `probs_TE` is what the paper averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from references.capacity import Choices

Valid = Sequence[bool]
Per = Literal["choice", "token"]


def mean_of_valid(rows: Sequence[Tensor], valid: Valid) -> Tensor:
    kept = [row for row, is_valid in zip(rows, valid) if is_valid]
    return sum(kept, torch.zeros_like(rows[0])) / max(len(kept), 1)


def counts(choices: Choices, num_experts: int, valid: Valid) -> list[int]:
    found = [0] * num_experts
    for chosen, is_valid in zip(choices, valid):
        for e in chosen:
            found[e] += is_valid
    return found


def shares(choices: Choices, num_experts: int, valid: Valid, per: Per) -> list[float]:
    """f: counts over all choices (sum 1), or over tokens (sum k)."""
    load = counts(choices, num_experts, valid)
    whole = sum(load) if per == "choice" else sum(valid)
    return [count / max(whole, 1) for count in load]


def dot(share_E: Sequence[float], mean_E: Tensor) -> Tensor:
    """sum_i f_i P_i."""
    return sum((share * mean for share, mean in zip(share_E, mean_E)), mean_E.new_zeros(()))


def entropy(p_E: Tensor) -> Tensor:
    """-sum p ln p, where 0 ln 0 = 0."""
    return -sum((p * torch.log(p) for p in p_E if p.item() > 0), p_E.new_zeros(()))


# --- CV^2: Shazeer 2017 and V-MoE -------------------------------------------------------------------------------------


def cv_squared(x_E: Tensor) -> Tensor:
    """Population variance over squared mean."""
    mean = x_E.sum() / len(x_E)
    return ((x_E - mean) ** 2).sum() / len(x_E) / mean**2


def importance_loss(choices: Choices, weights: Sequence[Sequence[Tensor]], num_experts: int, valid: Valid) -> Tensor:
    """CV^2 of the batch sum of combine weights."""
    total = [torch.zeros((), dtype=torch.float64) for _ in range(num_experts)]
    for t, chosen in enumerate(choices):
        for e, weight in zip(chosen, weights[t]):
            if valid[t]:
                total[e] = total[e] + weight
    return cv_squared(torch.stack(total))


def gate_importance_loss(probs_TE: Tensor, valid: Valid) -> Tensor:
    """V-MoE: CV^2 of the batch sum of the clean softmax, chosen or not."""
    return cv_squared(mean_of_valid(list(probs_TE), valid))


def load_loss(load_TE: Tensor, valid: Valid) -> Tensor:
    """CV^2 of the summed chances of being selected, 2017's or V-MoE's."""
    return cv_squared(mean_of_valid(list(load_TE), valid))


def hierarchical_importance(primary_TG: Tensor, secondary_TGE: Tensor, valid: Valid) -> Tensor:
    """sum_x G_p(x)_i G_i(x)_j, (G, E); the weights are 0 where not chosen."""
    rows = [primary_TG[t][:, None] * secondary_TGE[t] for t in range(len(primary_TG)) if valid[t]]
    return sum(rows, torch.zeros_like(secondary_TGE[0]))


def hierarchical_load(
    primary_load_TG: Tensor, secondary_load_TGE: Tensor, groups: Sequence[Sequence[int]], valid: Valid
) -> Tensor:
    """Load_p(X)_i Load_i(X_i)_j / |X_i|, (G, E), with X_i the tokens that come to group i; 0 where none does."""
    rows = []
    for g in range(primary_load_TG.shape[1]):
        here = [t for t in range(len(groups)) if valid[t] and g in groups[t]]
        inner_E = sum((secondary_load_TGE[t, g] for t in here), torch.zeros_like(secondary_load_TGE[0, 0]))
        outer = sum(primary_load_TG[t, g] for t in range(len(groups)) if valid[t])
        rows.append(outer * inner_E / max(len(here), 1))
    return torch.stack(rows)


# --- sum_i f_i P_i ----------------------------------------------------------------------------------------------------


def switch_loss(probs_TE: Tensor, choices: Choices, valid: Valid, per: Per = "choice") -> Tensor:
    """E sum_i f_i P_i with f over all k choices: 1 at uniform load per choice (MegaBlocks, OLMoE), k per token."""
    num_experts = probs_TE.shape[1]
    mean_E = mean_of_valid(list(probs_TE), valid)
    return num_experts * dot(shares(choices, num_experts, valid, per), mean_E)


def first_choice_loss(probs_TE: Tensor, choices: Choices, valid: Valid) -> Tensor:
    """Switch, equations 4 to 6, and Mesh TensorFlow for any k: f counts first choices only."""
    return switch_loss(probs_TE, [chosen[:1] for chosen in choices], valid)


def gshard_loss(probs_TE: Tensor, choices: Choices, valid: Valid) -> Tensor:
    """GShard, algorithm 1: (1 / E) sum_e (c_e / S) m_e over first choices: 1 / E^2 at uniform load."""
    return first_choice_loss(probs_TE, choices, valid) / probs_TE.shape[1] ** 2


def global_batch_loss(probs_TE: Tensor, valid: Valid, load_E: Sequence[int]) -> Tensor:
    """A micro-batch's P against the counts of the whole batch; f per choice."""
    share_E = [count / max(sum(load_E), 1) for count in load_E]
    return probs_TE.shape[1] * dot(share_E, mean_of_valid(list(probs_TE), valid))


def null_expert_loss(probs_TE: Tensor, choices: Choices, nulls: Sequence[int], valid: Valid, per: Per) -> Tensor:
    """AdaMoE: (n + m) sum_i f_i P_i, where each of the m nulls has the nulls' mean f; released code: f per token."""
    num_experts = probs_TE.shape[1]
    share = shares(choices, num_experts, valid, per)
    bucket = sum(share[e] for e in nulls) / len(nulls)
    evened = [bucket if e in nulls else f for e, f in enumerate(share)]
    return num_experts * dot(evened, mean_of_valid(list(probs_TE), valid))


def weighted_loss(probs_TE: Tensor, choices: Choices, eta_E: Sequence[float], valid: Valid) -> Tensor:
    """MoE++: sum_i eta_i f_i P_i, eta 1 for FFN experts and tau for the others; f per token, and no factor E."""
    share = shares(choices, probs_TE.shape[1], valid, "token")
    return dot([eta * f for eta, f in zip(eta_E, share)], mean_of_valid(list(probs_TE), valid))


def parameter_penalty(probs_TE: Tensor, choices: Choices, width_E: Sequence[float], valid: Valid) -> Tensor:
    """HMoE's P-penalty: E sum_i M_i P_i with M_i = (1 / T) sum_t [i chosen by t] h_i, h_i the expert's width."""
    share = shares(choices, probs_TE.shape[1], valid, "token")
    mean_E = mean_of_valid(list(probs_TE), valid)
    return probs_TE.shape[1] * dot([f * width for f, width in zip(share, width_E)], mean_E)


def relu_loss(logits_TE: Tensor, k: int, valid: Valid) -> Tensor:
    """ReMoE, without its coefficient: E / (T^2 k) sum_e (sum_t r_te) (number of t with r_te > 0), r = relu(z)."""
    num_experts, num_tokens = logits_TE.shape[1], max(sum(valid), 1)
    loss = 0 * logits_TE.sum()
    for e in range(num_experts):
        positive = [z for z, is_valid in zip(logits_TE[:, e], valid) if is_valid and z.item() > 0]
        loss = loss + sum(positive, logits_TE.new_zeros(())) * len(positive)
    return num_experts / (num_tokens**2 * k) * loss


# --- others -----------------------------------------------------------------------------------------------------------


def z_loss(logits_TE: Tensor, valid: Valid) -> Tensor:
    """ST-MoE: mean_t (ln sum_i exp z_ti)^2."""
    return mean_of_valid([torch.log(torch.exp(logits_E).sum()) ** 2 for logits_E in logits_TE], valid)


def entropy_loss(probs_TE: Tensor, valid: Valid) -> Tensor:
    """Dynamic top-p (and LIMoE's local loss on one modality): the mean entropy of a token's distribution."""
    return mean_of_valid([entropy(p_E) for p_E in probs_TE], valid)


def of_modality(modality: Sequence[int], wanted: int, valid: Valid) -> list[bool]:
    return [is_valid and m == wanted for is_valid, m in zip(valid, modality)]


def limoe_local_loss(probs_TE: Tensor, modality: Sequence[int], wanted: int, valid: Valid) -> Tensor:
    """LIMoE: mean entropy of the tokens of one modality; low where each token is sure."""
    return entropy_loss(probs_TE, of_modality(modality, wanted, valid))


def limoe_global_loss(probs_TE: Tensor, modality: Sequence[int], wanted: int, valid: Valid, threshold: float) -> Tensor:
    """LIMoE: max(0, tau - entropy of the modality's mean distribution); tau = ln(experts it should use at least).

    0 where the modality has no token.
    """
    mine = of_modality(modality, wanted, valid)
    if not any(mine):
        return 0 * probs_TE.sum()
    gap = threshold - entropy(mean_of_valid(list(probs_TE), mine))
    return gap if gap.item() > 0 else 0 * gap
