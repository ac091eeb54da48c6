"""Layers of libraries that need a GPU, with the weights of ours; none of them is a dependency."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from ours import Contestant, LayerShape
from torch import Tensor, nn

from sparsemix import MoE

Builder = Callable[[LayerShape, MoE], Contestant]


class Weights:
    """Those of our layer, in its dtype."""

    def __init__(self, moe: MoE) -> None:
        named = {name: parameter.detach() for name, parameter in moe.named_parameters()}
        self.gate_up_EGD, self.down_EDF = named["experts.gate_up_EFD"], named["experts.down_EDF"]
        self.router_ED = named["router.weight_ED"].to(self.down_EDF.dtype)
        self.gate_EFD, self.up_EFD = self.gate_up_EGD.chunk(2, dim=1)

    @property
    def interleaved_EGD(self) -> Tensor:
        """Gate and up rows in turns."""
        return torch.stack((self.gate_EFD, self.up_EFD), dim=2).flatten(1, 2)


def transformers_grouped_mm(shape: LayerShape, moe: MoE) -> Contestant:
    """transformers' block over `torch.nn.functional.grouped_mm`."""
    from transformers_layer import transformers_layer

    theirs = transformers_layer(shape, moe, "grouped_mm")
    theirs.layer.to(Weights(moe).down_EDF)
    return theirs


def sonicmoe(shape: LayerShape, moe: MoE) -> Contestant:
    """SonicMoE's layer, router included; gate and up rows in turns."""
    from sonicmoe import MoE as SonicMoE
    from sonicmoe.enums import ActivationType

    weights = Weights(moe)
    layer = SonicMoE(
        num_experts=shape.experts,
        num_experts_per_tok=shape.k,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden,
        activation_function=ActivationType.SWIGLU,
        add_bias=False,
        std=0.02,
    ).to(weights.down_EDF)
    load(layer.router.weight, weights.router_ED)
    load(layer.c_fc.weight, weights.interleaved_EGD)
    load(layer.c_proj.weight, weights.down_EDF)
    return Contestant(layer, lambda x_TD: layer(x_TD)[0])


class ScatterMoE(nn.Module):
    """ScatterMoE's experts behind a plain router, as it has none."""

    def __init__(self, shape: LayerShape, weights: Weights) -> None:
        from scattermoe.mlp import GLUMLP

        super().__init__()
        self.k = shape.k
        self.router = nn.Linear(shape.dim, shape.experts, bias=False).to(weights.down_EDF)
        self.experts = GLUMLP(shape.dim, shape.hidden, shape.experts, shape.k, activation=nn.SiLU())
        self.experts.to(weights.down_EDF)
        load(self.router.weight, weights.router_ED)
        load(self.experts.experts.weight, torch.cat((weights.up_EFD, weights.gate_EFD), dim=1))
        load(self.experts.output_experts.weight, weights.down_EDF)

    def forward(self, x_TD: Tensor) -> Tensor:
        logits_TK, chosen_TK = self.router(x_TD).float().topk(self.k)
        return self.experts(x_TD, logits_TK.softmax(1).to(x_TD.dtype), chosen_TK)


def scattermoe(shape: LayerShape, moe: MoE) -> Contestant:
    """ScatterMoE's layer."""
    layer = ScatterMoE(shape, Weights(moe))
    return Contestant(layer, layer)


def megablocks(shape: LayerShape, moe: MoE) -> Contestant:
    """MegaBlocks' dropless layer with grouped products, router included, without its balance loss."""
    from megablocks.layers.arguments import Arguments
    from megablocks.layers.dmoe import dMoE

    weights = Weights(moe)
    layer = dMoE(
        Arguments(
            hidden_size=shape.dim,
            ffn_hidden_size=shape.hidden,
            bias=False,
            return_bias=False,
            activation_fn=F.silu,
            moe_num_experts=shape.experts,
            moe_top_k=shape.k,
            moe_normalize_expert_weights=1,
            moe_loss_weight=0.0,
            memory_optimized_mlp=True,
            mlp_type="glu",
            mlp_impl="grouped",
            fp16=False,
            bf16=True,
            device=weights.down_EDF.device,
        )
    )
    load(layer.router.layer.weight, weights.router_ED)
    load(layer.experts.mlp.w1, weights.gate_EFD.flatten(0, 1))
    load(layer.experts.mlp.v1, weights.up_EFD.flatten(0, 1))
    load(layer.experts.mlp.w2, weights.down_EDF.transpose(1, 2).flatten(0, 1))
    return Contestant(layer, lambda x_TD: layer(x_TD[:, None])[:, 0])


@torch.no_grad()
def load(parameter: Tensor, values: Tensor) -> None:
    """Copy, refusing another shape, which `copy_` would broadcast to."""
    assert parameter.shape == values.shape, (parameter.shape, values.shape)
    parameter.copy_(values)


OPTIONAL: dict[str, Builder] = {
    "transformers grouped_mm": transformers_grouped_mm,
    "sonicmoe": sonicmoe,
    "scattermoe": scattermoe,
    "megablocks": megablocks,
}
"""Name, which begins with the package's, to how the layer is made."""
