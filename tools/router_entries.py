"""What docs/routers.md says of each router; what can be asked of its config, the page asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One router in one setting."""

    name: str
    """What people call it."""
    config: Mapping[str, Any]
    """Of the router, `type` first; what it leaves out is the paper's default."""
    paper: str
    formula: str
    use: str
    """When to choose it."""
    cost: str
    """Beside the experts and the T E D multiply-adds of the logits."""
    balance: str
    """What keeps its experts equally loaded."""


ENTRIES = (
    Entry(
        name="Top-k, softmax first (OLMoE, Qwen)",
        config={"type": "topk", "k": 2, "normalize": False},
        paper="2409.02060",
        formula="p = softmax(Wx); w = p on the k largest; `normalize` divides by their sum (Qwen3)",
        use="the default of language models: many small experts, dropless",
        cost="a top k",
        balance="switch loss and z-loss",
    ),
    Entry(
        name="Top-k, softmax after (Mixtral)",
        config={"type": "topk", "k": 2, "gate": "topk_softmax"},
        paper="2401.04088",
        formula="w = softmax of the k largest of Wx",
        use="to run or continue Mixtral, Granite, JetMoE",
        cost="a top k",
        balance="switch loss and z-loss",
    ),
    Entry(
        name="Top-k with bias (gpt-oss)",
        config={"type": "topk", "k": 4, "gate": "topk_softmax", "bias": True},
        paper="2508.10925",
        formula="w = softmax of the k largest of Wx + b",
        use="to run or continue gpt-oss",
        cost="a top k",
        balance="switch loss and z-loss",
    ),
    Entry(
        name="Sigmoid with selection bias",
        config={"type": "topk", "k": 2, "gate": "sigmoid", "selection_bias": {}},
        paper="2408.15664",
        formula="s = σ(Wx); the k largest of s + b; w = s / Σ s; b += u sign(mean load − load)",
        use="balance without a gradient that disturbs the task",
        cost="a top k; a count a step",
        balance="the bias b, and a light sequence loss",
    ),
    Entry(
        name="Group-limited, DeepSeek-V3",
        config={"type": "group_limited", "k": 2, "num_groups": 4, "keep_groups": 2},
        paper="2412.19437",
        formula="as above, within the groups whose two best scores sum highest",
        use="experts spread over many devices: few of them a token",
        cost="two top ks",
        balance="the bias b, and a light sequence loss",
    ),
    Entry(
        name="Device-limited, DeepSeek-V2",
        config={
            "type": "group_limited",
            "k": 2,
            "num_groups": 4,
            "keep_groups": 2,
            "gate": "softmax_topk",
            "group_score": "best",
            "normalize": False,
            "selection_bias": None,
        },
        paper="2405.04434",
        formula="p = softmax(Wx); the k largest within the groups whose best p is highest; w = p",
        use="to run or continue DeepSeek-V2",
        cost="two top ks",
        balance="switch, device and communication losses",
    ),
    Entry(
        name="Noisy top-k",
        config={"type": "noisy_topk", "k": 2},
        paper="1701.06538",
        formula="H = Wx + n softplus(W′x), n ~ N(0, 1); w = softmax of the k largest of H",
        use="exploration that the router learns to switch off; LSTM language models",
        cost="twice the logits, a top k + 1",
        balance="importance and load losses",
    ),
    Entry(
        name="Hierarchical",
        config={"type": "hierarchical", "num_groups": 4},
        paper="1701.06538, appendix B",
        formula="w = G(x) over groups times Gᵢ(x) within each chosen group",
        use="thousands of experts",
        cost="two levels of noisy top-k",
        balance="importance and load losses, hierarchical by construction",
    ),
    Entry(
        name="Strictly balanced",
        config={"type": "batchwise", "k": 2},
        paper="1701.06538, appendix F",
        formula="p = softmax(Wx); each expert keeps its k T / E largest p; w = p / Σ p; later by thresholds",
        use="equal loads at any price, on a fixed batch size",
        cost="a top k of tokens for each expert",
        balance="by construction in training; learned thresholds after",
    ),
    Entry(
        name="GShard top-2",
        config={"type": "gshard"},
        paper="2006.16668",
        formula="p = softmax(Wx); best two, w = p / Σ p; the second kept with probability min(1, 2 w₂)",
        use="encoder-decoders with expert capacity",
        cost="two argmaxes, a queue for each expert",
        balance="loss on first choices, capacity",
    ),
    Entry(
        name="Switch",
        config={"type": "switch"},
        paper="2101.03961",
        formula="p = softmax(W(x ⊙ jitter)); w = p of the best expert",
        use="the cheapest sparse layer: one expert a token",
        cost="an argmax, a queue for each expert",
        balance="switch loss, capacity",
    ),
    Entry(
        name="No token left behind",
        config={"type": "no_token_left_behind", "k": 2},
        paper="2101.03961, appendix",
        formula="Switch; tokens that found no place try their next choice",
        use="tight capacities",
        cost="k rounds of queues",
        balance="switch loss, capacity",
    ),
    Entry(
        name="V-MoE, batch prioritised",
        config={"type": "vmoe", "k": 2, "capacity": {"factor": 1.05, "priority": "token", "multiple_of": 4}},
        paper="2106.05974",
        formula="p = softmax(Wx + n / E); w = p on the k largest; surer tokens are served first",
        use="vision: skips unimportant patches at a small capacity",
        cost="a top k, a sort of the tokens",
        balance="importance and load losses, capacity",
    ),
    Entry(
        name="LIMoE",
        config={"type": "limoe", "min_experts": [4.0, 4.0], "local": [1]},
        paper="2206.02770",
        formula="V-MoE with k = 1",
        use="images and text through the same experts",
        cost="as V-MoE",
        balance="local and global entropy losses of each modality, importance and load",
    ),
    Entry(
        name="Expert choice",
        config={"type": "expert_choice", "capacity_factor": 2.0},
        paper="2202.09368",
        formula="S = softmax(Wx); each expert takes the c T / E tokens with its largest S; w = S",
        use="encoders, vision, diffusion: perfect loads, tokens of variable compute",
        cost="a top k of tokens for each expert",
        balance="by construction",
    ),
    Entry(
        name="BASE",
        config={"type": "base"},
        paper="2103.16716",
        formula="the assignment of T / E tokens to each expert with the largest Σ h·w; w = σ(h·w)",
        use="balance without a loss; one such layer in a model",
        cost="a linear assignment in training, an argmax after",
        balance="by construction in training",
    ),
    Entry(
        name="Sinkhorn (S-BASE)",
        config={"type": "sinkhorn"},
        paper="2202.01169",
        formula="the best of exp(Wx) scaled to equal rows and columns; w = σ(Wx)",
        use="as BASE, faster and approximate",
        cost="some passes over T E numbers in training",
        balance="nearly, in training",
    ),
    Entry(
        name="Hash",
        config={"type": "hash", "vocab_size": 64},
        paper="2106.04426",
        formula="expert = table[token id]; w = 1 / k",
        use="a baseline that nothing can break; needs no logits",
        cost="a look-up",
        balance="the table; even as the tokens' frequencies allow",
    ),
    Entry(
        name="Cosine (X-MoE)",
        config={"type": "cosine", "k": 2},
        paper="2204.09179",
        formula="z = cos(Px, e) / τ; p = softmax(z); w = p on the k largest",
        use="against collapse of representations onto the experts' centroids",
        cost="a low-rank projection",
        balance="switch loss",
    ),
    Entry(
        name="Top-p",
        config={"type": "top_p", "p": 0.4},
        paper="2403.07652",
        formula="p = softmax(Wx); the fewest experts whose p sum to more than 0.4; w = p",
        use="hard tokens take more experts than easy ones",
        cost="a sort of E numbers a token",
        balance="switch and entropy losses",
    ),
    Entry(
        name="ReLU (ReMoE)",
        config={"type": "relu", "k": 2},
        paper="2412.14711",
        formula="w = relu(Wx); λ follows the sparsity, and the loss λ (E / k) Σ f w pulls towards k experts a token",
        use="routing that is differentiable everywhere",
        cost="none; dense at first, sparse as λ grows",
        balance="its own loss, weighted by load",
    ),
    Entry(
        name="Token rounding (SonicMoE)",
        config={"type": "token_rounding", "k": 2, "tile": 8},
        paper="2512.14080",
        formula="top-k, then each expert's count to a multiple of the tile: drops or adds by p",
        use="no half-filled tiles in grouped products on a GPU",
        cost="a sort of T for each expert",
        balance="switch loss and z-loss",
    ),
    Entry(
        name="Null experts (AdaMoE)",
        config={"type": "null", "k": 3, "num_null": 2},
        paper="2406.13233",
        formula="top-k of true and null experts; w = p / Σ p over the true ones chosen",
        use="fewer experts for easy tokens, at a set budget on average",
        cost="a top k",
        balance="switch loss with the null experts as one",
    ),
    Entry(
        name="MoE++",
        config={"type": "moepp", "k": 2, "num_zero": 1, "num_copy": 1, "num_constant": 1},
        paper="2410.07348",
        formula="z = Wx + W′z of the layer before; p = softmax(z); top-k; experts that return 0, x or a constant",
        use="as AdaMoE; and routers that remember",
        cost="E² a token for the residual",
        balance="loss weighted by what experts cost; capacity by kind as an option",
    ),
    Entry(
        name="Dense",
        config={"type": "dense"},
        paper="Jacobs et al. 1991; 1312.4314",
        formula="w = softmax(Wx) over all experts",
        use="small mixtures, ensembles, a reference",
        cost="all experts for every token",
        balance="every expert sees every token; running totals (2013) as an option",
    ),
)
"""In the order of the page."""
