"""What transformers is told of: our kernels for its mixtures, and our decoder as a model of its own kind."""

from __future__ import annotations

from sparsemix.checks import require


def register() -> None:
    """Make `experts_implementation="sparsemix"` and folders of our own format known; calling it again changes nothing.

    Any model whose experts go through transformers' experts interface then takes the former: in `from_pretrained`, in a
    config, or by `model.set_experts_implementation("sparsemix")`; for training and generation. `AutoModelForCausalLM`
    opens the latter.

    Raises:
        ImportError: transformers is not installed.
    """
    require("transformers", "by the back end of its mixtures")
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    from sparsemix.interop import hf_model
    from sparsemix.interop.transformers.forward import experts_forward

    ALL_EXPERTS_FUNCTIONS.register("sparsemix", experts_forward)
    hf_model.register()
