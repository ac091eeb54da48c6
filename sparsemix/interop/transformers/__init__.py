"""The back end of transformers' mixtures: their experts by our kernels, under `experts_implementation="sparsemix"`."""

from __future__ import annotations

from sparsemix.checks import require


def register() -> None:
    """Make `experts_implementation="sparsemix"` known to transformers; calling it again changes nothing.

    Any model whose experts go through transformers' experts interface then takes it: in `from_pretrained`, in a config,
    or by `model.set_experts_implementation("sparsemix")`; for training and generation.

    Raises:
        ImportError: transformers is not installed.
    """
    require("transformers", "by the back end of its mixtures")
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    from sparsemix.interop.transformers.forward import experts_forward

    ALL_EXPERTS_FUNCTIONS.register("sparsemix", experts_forward)
