"""What is known of a published model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparsemix.models.counts import Counts, Shape, shape_of
from sparsemix.models.decoder import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One published model."""

    source: str
    """Where the shape comes from."""
    published: str
    """The size that its makers state."""
    context: int
    shape: Shape
    decoder: DecoderConfig | None = None
    """The same as a config; None where `Decoder` lacks a part."""
    missing: str = ""
    """The parts that `Decoder` lacks."""
    embedding_is_active: bool = True
    """Whether the makers count the input embedding, which is only looked up, among the active parameters."""

    def counts(self, context: int | None = None) -> Counts:
        """The counts in the makers' accounting of active parameters."""
        counts = self.shape.counts(self.context if context is None else context)
        if self.embedding_is_active:
            return counts
        return replace(counts, parameters_active=counts.parameters_active - counts.parameters_embedding)


def runs(source: str, published: str, config: DecoderConfig, *, embedding_is_active: bool = True) -> Architecture:
    """A model that `Decoder` can be."""
    return Architecture(
        source=source,
        published=published,
        context=config.context,
        shape=shape_of(config),
        decoder=config,
        embedding_is_active=embedding_is_active,
    )
