"""Fits: the best of several starts, the number of experts, folds."""
