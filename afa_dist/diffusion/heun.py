"""EDM's deterministic sampler."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""D(x; sigma): noisy images (B, C, H, W) and a noise level (0-d) to what they were without noise (B, C, H, W)."""


def heun(denoise: Denoise, noise_BCHW: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Solve dx/dsigma = (x - D(x; sigma)) / sigma from sigmas[0] to 0 by Heun's method (2206.00364, algorithm 1).

    noise_BCHW: standard normal. sigmas: falling, the last one 0; N steps take 2N - 1 calls of `denoise`. The state is kept
    in fp64, as in the authors' code; `denoise` gets it so.
    """
    sigmas = sigmas.double().to(noise_BCHW.device)
    x = noise_BCHW.double() * sigmas[0]
    for now, after in itertools.pairwise(sigmas):
        slope = (x - denoise(x, now)) / now
        moved = x + (after - now) * slope
        if after > 0:
            slope = (slope + (moved - denoise(moved, after)) / after) / 2
            moved = x + (after - now) * slope
        x = moved
    return x
