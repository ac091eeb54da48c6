"""Proof that a layer, a run or a model of another library computes what it should."""
