"""Makes docs/routers.md and its picture from the routers' configs and what router_entries.py says of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from router_entries import ENTRIES, Entry
from torch import Tensor

from sparsemix import Routing, TokenInfo
from sparsemix.files import write_text
from sparsemix.routers import RouterConfig

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "router_demos.json"
NUM_EXPERTS, DIM, TOKENS = 8, 16, 32
PANELS = 5
COLUMNS = ("router", "`type`", "paper", "formula", "when to use it", "causal", "cost", "what balances it")
HEAD = """# Routers

Made by `make docs`; do not edit. Every router is a config with a `build(dim, num_experts)`, chosen in
`MoEConfig(router=...)` or by `sparsemix train --model.moe.router.type NAME`. All give the same thing, a `Routing`:
weighted edges token -> expert, so that each works with every kind of expert, every back end, and every loss whose
fields it gives. *Causal* says whether a token's routing is free of any influence of later ones; a decoder refuses a
router that is not, unless its config has `allow_leak=True`; *without capacity*: with `capacity=None`, since in a queue
later tokens take the places of earlier ones. The losses named are those that `BalanceConfig()` uses by default, with
the paper's coefficients.
"""
PICTURE = f"""## The same input through each

{TOKENS} tokens from four clusters, {NUM_EXPERTS} experts, in training, the same matrix W wherever the shapes allow.
Columns are tokens, rows are experts; the darker, the larger the combine weight; red frames are choices that nobody
computes, since a capacity refused them, a better one was free, or the expert is a zero.

![The routing of each router](routers.png)
"""
OTHERS = """## Two that choose something else

**Soft MoE** (2308.00951, `SoftMoEConfig`) has no edges: each expert computes a few slots, weighted means of all
tokens of a sequence, D = softmax over tokens and C = softmax over slots of normalised products. Differentiable
everywhere, the cost does not depend on the number of experts; not causal, so for encoders and vision.

**Mixture of depths** (2404.02258, `DecoderConfig(depth=DepthConfig(...))`) chooses tokens for a block rather than
experts for a token: r = w x, and the c S tokens of a sequence with the largest r go through, x + r (block(x) - x).
Which these are depends on later tokens; a predictor, trained beside, decides in evaluation and generation, one
token at a time.

A `PooledRouter` routes whole sequences or images by their mean, for convolutional and recurrent experts.
"""
DEMOS = """## In a language model

`sparsemix demo --router NAME` trains a small language model with the router's mixture and the same model without
feed-forward layers, on the same tokens in turns. *Ahead* is by how many bits a byte of held-out text; *fullest* is the
load of the fullest expert over the mean load, on held-out text in the worst layer, and *bound* what is stated for it.
Routers that are not causal are left out.

| router | held-out, bits a byte | ahead by | choices a token | fullest | bound |
|---|---|---|---|---|---|
"""


def main() -> None:
    """Write the page and the picture."""
    write_text(ROOT / "docs" / "routers.md", page())
    picture().savefig(ROOT / "docs" / "routers.png", dpi=80)


def page() -> str:
    """The page in Markdown."""
    table = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *(_row(entry) for entry in ENTRIES)]
    return "\n".join([HEAD, *table, "", OTHERS, PICTURE, *_demos()])


def config_of(entry: Entry) -> Any:
    """The config that the entry names, with the defaults of its class."""
    return pydantic.TypeAdapter(RouterConfig).validate_json(json.dumps(entry.config))


def _row(entry: Entry) -> str:
    config = config_of(entry)
    what = (entry.name, f"`{config.type}`", entry.paper, entry.formula, entry.use)
    return f"| {' | '.join((*what, _causal(config), entry.cost, entry.balance))} |"


def _causal(config: Any) -> str:
    if config.causal:
        return "yes"
    try:
        return "without capacity" if replace(config, capacity=None).causal else "no"
    except ValueError:  # it has none, or must have one
        return "no"


def _demos() -> list[str]:
    if not RESULTS.exists():
        return []
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [
        f"| `{one['router']}` | {one['loss']:.4f} | {one['gain']:.4f} | {one['edges_per_token']:.2f} "
        f"| {one['fullest']:.2f} | {one['bound']:g} |"
        for one in found["routers"]
    ]
    measured = found["measured_on"]
    facts = f"{found['steps']} steps each, seed {found['seed']}, {measured['cpu']}, commit {measured['commit']}."
    return [DEMOS + "\n".join(rows), "", facts, ""]


def picture() -> Figure:
    """The routing of each router on the same input."""
    lines = -(-len(ENTRIES) // PANELS)
    figure = Figure(figsize=(3.4 * PANELS, 1.5 * lines), layout="constrained")
    axes = figure.subplots(lines, PANELS)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, entry in zip(axes.flat, ENTRIES):
        draw(axis, entry.name, routed(entry))
    return figure


def routed(entry: Entry) -> Routing:
    """The routing of the picture's tokens."""
    torch.manual_seed(0)
    router = config_of(entry).build(DIM, NUM_EXPERTS)
    _fill(router)
    number_T = torch.arange(TOKENS)
    info = TokenInfo(
        id_T=number_T * 7 % 11,
        sequence_T=torch.zeros_like(number_T),
        position_T=number_T,
        modality_T=number_T // (TOKENS // 2),
    )
    with torch.no_grad():
        return router(tokens(), info)


def tokens() -> Tensor:
    """Four clusters, one after the other."""
    generator = torch.Generator().manual_seed(1)
    centre_CD = torch.randn(4, DIM, generator=generator)
    return centre_CD.repeat_interleave(TOKENS // 4, 0) + 0.7 * torch.randn(TOKENS, DIM, generator=generator)


@torch.no_grad()
def _fill(router: torch.nn.Module) -> None:
    """Logits of size 1.5 instead of the small ones that training begins with."""
    generator = torch.Generator().manual_seed(2)
    weight_ED = torch.randn(NUM_EXPERTS, DIM, generator=generator) * 1.5 * DIM**-0.5
    for parameter in router.parameters():
        if parameter.shape == weight_ED.shape:
            parameter.copy_(weight_ED)


def draw(axis: Axes, title: str, routing: Routing) -> None:
    """Combine weights as shades, refused choices as frames."""
    weight_ET = torch.zeros(NUM_EXPERTS, TOKENS)
    weight_ET[routing.expert_N, routing.token_N] = routing.weight_N.float()
    live_N = torch.ones_like(routing.token_N, dtype=torch.bool) if routing.live_N is None else routing.live_N
    dead = ~live_N & (routing.weight_N > 0)
    weight_ET[routing.expert_N[~live_N], routing.token_N[~live_N]] = 0
    axis.imshow(weight_ET.numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=max(float(weight_ET.max()), 1e-9))
    for token, expert in zip(routing.token_N[dead].tolist(), routing.expert_N[dead].tolist()):
        axis.add_patch(Rectangle((token - 0.5, expert - 0.5), 1, 1, fill=False, edgecolor="#d1495b", linewidth=0.8))
    axis.add_patch(Rectangle((-0.5, -0.5), TOKENS, NUM_EXPERTS, fill=False, edgecolor="#999999", linewidth=0.8))
    axis.set_title(title, fontsize=9)


if __name__ == "__main__":
    main()
