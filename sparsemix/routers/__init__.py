"""Routers: x_TD -> Routing. One class a file; score.py and select.py hold the pure functions they share."""

from sparsemix.routers.base import Router
from sparsemix.routers.topk import TopKRouter, TopKRouterConfig

__all__ = ["Router", "TopKRouter", "TopKRouterConfig"]
