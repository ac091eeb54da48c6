"""Pictures of a fitted mixture, in matplotlib."""

from sparsemix.classic.display.display import MoEDisplay, plot_gate, plot_partition, plot_responsibilities

__all__ = ["MoEDisplay", "plot_gate", "plot_partition", "plot_responsibilities"]
