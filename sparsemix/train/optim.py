"""Which optimiser moves which parameter: matrices, embeddings, routers and vectors each have their own rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sparsemix.checks import check
from sparsemix.config import config
from sparsemix.train.muon import Muon
from sparsemix.train.precision import multiplies_bfloat16

Role = Literal["matrix", "embedding", "unembedding", "router", "vector"]
LearningRate = Annotated[float, Field(gt=0)]


def role(name: str, parameter: Tensor) -> Role:
    """What a parameter of a decoder is, told by its name and shape; stacks of experts are matrices."""
    *parents, leaf = name.split(".")
    if "embedding" in parents:
        return "embedding"
    if "unembedding" in parents:
        return "unembedding"
    if "router" in parents:
        return "router"
    if parameter.ndim < 2 or "bias" in leaf or 1 in parameter.shape[-2:]:
        return "vector"
    return "matrix"


@config
class AdamWConfig:
    """AdamW, torch's fused one where there is one; weights decay in matrices only."""

    type: Literal["adamw"] = "adamw"
    lr: LearningRate = 0.003
    """Peak learning rate of matrices, norms and biases."""
    embedding_lr: LearningRate | None = None
    """Of the embedding, also where it is tied to the unembedding; None: `lr`."""
    unembedding_lr: LearningRate | None = None
    """Of the unembedding; None: `lr`."""
    router_lr: LearningRate | None = None
    """Of routers; None: `lr`."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the running mean of gradients."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the running mean of their squares."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the latter."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Of matrices, times the learning rate a step."""

    def build(self, model: nn.Module) -> ModelOptimizer:
        """The optimiser of all parameters of the model."""
        return ModelOptimizer(model, [self.adamw(by_role(model))])

    def adamw(self, parameters: Mapping[Role, list[nn.Parameter]]) -> torch.optim.AdamW:
        """AdamW of these parameters."""
        rates = {
            "embedding": self.embedding_lr,
            "unembedding": self.unembedding_lr,
            "router": self.router_lr,
        }
        groups = [
            {
                "params": members,
                "lr": rates.get(kind) or self.lr,
                "weight_decay": self.weight_decay if kind == "matrix" else 0.0,
            }
            for kind, members in parameters.items()
        ]
        fused = all(p.device.type in ("cpu", "cuda") for members in parameters.values() for p in members)
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(groups, lr=self.lr, betas=betas, eps=self.eps, fused=fused)


@config
class MuonConfig:
    """Muon on matrices, stacked experts among them; AdamW on everything else."""

    type: Literal["muon"] = "muon"
    lr: LearningRate = 0.02
    """Peak learning rate of matrices."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the running mean of gradients."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of matrices, times the learning rate a step."""
    scale: Literal["shape", "rms"] = "shape"
    """Factor of an update: sqrt(max(1, out / in)), or 0.2 sqrt(max(out, in)), to which AdamW's rates carry over."""
    iterations: int = Field(default=5, ge=1)
    """Newton-Schulz steps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What they are computed in; auto: bfloat16 where the device has instructions for it, several times faster."""
    rest: AdamWConfig = AdamWConfig()
    """What moves embeddings, routers, norms and biases."""

    def build(self, model: nn.Module) -> ModelOptimizer:
        """The optimiser of all parameters of the model."""
        parameters = by_role(model)
        matrices = parameters.pop("matrix", [])
        narrow = self.dtype == "bfloat16" or (
            self.dtype == "auto" and all(multiplies_bfloat16(matrix.device) for matrix in matrices)
        )
        muon = Muon(
            [{"params": matrices}],
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            scale=self.scale,
            iterations=self.iterations,
            dtype=torch.bfloat16 if narrow else None,
        )
        return ModelOptimizer(model, [muon, self.rest.adamw(parameters)])


OptimizerConfig = Annotated[AdamWConfig | MuonConfig, Field(discriminator="type")]


def by_role(model: nn.Module) -> dict[Role, list[nn.Parameter]]:
    """The parameters that need a gradient, each once."""
    found: dict[Role, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[role(name, parameter)].append(parameter)
    return dict(found)


class ModelOptimizer:
    """The optimisers of one model as one, with its state as named tensors, so that nothing need be pickled."""

    def __init__(self, model: nn.Module, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self._peaks = [[group["lr"] for group in part.param_groups] for part in parts]

    @property
    def lr(self) -> float:
        """The learning rate of the matrices in the last step."""
        return self.parts[0].param_groups[0]["lr"]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that are moved."""
        return [p for part in self.parts for group in part.param_groups for p in group["params"]]

    def step(self, multiplier: float) -> None:
        """Apply the gradients at this share of the peak learning rates."""
        for part, peaks in zip(self.parts, self._peaks):
            for group, peak in zip(part.param_groups, peaks):
                group["lr"] = peak * multiplier
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the state, not copied, under `<parameter>/<what it is>`."""
        return {
            f"{self._names[parameter]}/{key}": value
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over copies of what `state` gave."""
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for name, value in tensors.items():
            parameter, _, key = name.rpartition("/")
            found[parameter][key] = value
        unknown = sorted(set(found) - set(self._names.values()))
        check(not unknown, "optimizer", "must be the state of this model's parameters", unknown[:1])
        for part in self.parts:
            part.state.clear()
            for parameter in (p for group in part.param_groups for p in group["params"]):
                values = found.get(self._names[parameter], {})
                if values:
                    part.state[parameter] = {k: v.to(parameter.device, copy=True) for k, v in values.items()}
