"""How a global batch is cut, whoever computes it."""

SLICE = 16
"""Samples that share one generator of random numbers. Per-worker batches are multiples of it when there is more than one
worker."""
