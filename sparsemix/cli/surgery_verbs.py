"""What `sparsemix surgery` can do to models: each verb with its settings and the function that it calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sparsemix.interop import StoredModel
from sparsemix.surgery import (
    AddNullConfig,
    DropLayerExpertsConfig,
    Edited,
    GrowConfig,
    MergeConfig,
    MergeDenseConfig,
    PruneConfig,
    SplitConfig,
    Text,
    UntieConfig,
    UpcycleConfig,
    add_null,
    drop_layer_experts,
    grow,
    merge_dense,
    merge_experts,
    prune,
    split,
    untie,
    upcycle,
)


class Verb(NamedTuple):
    """What can be done to models."""

    settings: type[Any]
    apply: Callable[[Sequence[StoredModel], Any, Text], Edited]
    summary: str
    num_models: int | None = 1
    """How many it takes; None: any number."""


VERBS = {
    "upcycle": Verb(
        UpcycleConfig, lambda models, settings, _: upcycle(models[0], settings), "FFNs of a dense model become experts"
    ),
    "merge-dense": Verb(
        MergeDenseConfig,
        lambda models, settings, _: merge_dense(models, settings),
        "FFNs of several dense models become the experts of one",
        num_models=None,
    ),
    "prune": Verb(
        PruneConfig,
        lambda models, settings, text: prune(models[0], settings, text),
        "experts that text does without are removed",
    ),
    "merge-experts": Verb(
        MergeConfig,
        lambda models, settings, text: merge_experts(models[0], settings, text),
        "experts that are alike become one",
    ),
    "untie": Verb(UntieConfig, lambda models, *_: untie(models[0]), "experts that columns share are copied for each"),
    "split": Verb(
        SplitConfig, lambda models, settings, _: split(models[0], settings), "each expert becomes several narrower ones"
    ),
    "grow": Verb(
        GrowConfig, lambda models, settings, _: grow(models[0], settings), "more experts, copies of those there are"
    ),
    "add-null": Verb(
        AddNullConfig, lambda models, settings, _: add_null(models[0], settings), "null experts beside the true ones"
    ),
    "drop-layer-experts": Verb(
        DropLayerExpertsConfig,
        lambda models, settings, text: drop_layer_experts(models[0], settings, text),
        "blocks without their mixtures",
    ),
}
