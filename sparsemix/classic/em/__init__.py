"""Expectation-maximisation over a mixture of two parts."""
