"""The contrastive loss on a GPU: is it right, and which way to compute it is fastest.

Legend: A anchors, K keys, D dimensions.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from gpu_measuring import arithmetic, attempt, peak_tflops, timed

from afa_dist.losses import afa_loss

DIM, CLASSES, TEMPERATURE = 128, 10, 0.1

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def make_inputs(anchors: int, keys: int, device: torch.device, dtype: torch.dtype, seed: int) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(anchors, DIM, generator=g, dtype=torch.float64), dim=1).to(device, dtype)
    k = F.normalize(torch.randn(keys, DIM, generator=g, dtype=torch.float64), dim=1).to(device, dtype)
    y, yk = (torch.randint(0, CLASSES, (count,), generator=g).to(device) for count in (anchors, keys))
    return z.requires_grad_(), k.requires_grad_(), y, yk


def streamed(z: torch.Tensor, k: torch.Tensor, y: torch.Tensor, yk: torch.Tensor) -> torch.Tensor:
    return afa_loss(z, k, y, yk, temperature=TEMPERATURE, classes=CLASSES)


def dense(z: torch.Tensor, k: torch.Tensor, y: torch.Tensor, yk: torch.Tensor) -> torch.Tensor:
    """The whole matrix of similarities, differentiated by torch."""
    similarity_AK = z @ k.T / TEMPERATURE
    same_AK = y[:, None] == yk
    log_ratio_AK = similarity_AK - similarity_AK.logsumexp(1, keepdim=True)
    return -(torch.where(same_AK, log_ratio_AK, 0.0).sum(1) / same_AK.sum(1).clamp(min=1)).sum()


def by_attention(z: torch.Tensor, k: torch.Tensor, y: torch.Tensor, yk: torch.Tensor) -> torch.Tensor:
    """The log-sum-exp of the library's attention kernel; positives through the sums of the keys of each class."""
    from torch.nn.attention.flex_attention import flex_attention

    global _compiled_flex
    _compiled_flex = _compiled_flex or torch.compile(flex_attention, dynamic=False)
    q, key = z[None, None], k[None, None]
    _, lse = _compiled_flex(q, key, key, scale=1 / TEMPERATURE, return_lse=True)
    one_hot_KC = F.one_hot(yk, CLASSES).to(k.dtype)
    means_CD = (one_hot_KC.T @ k) / one_hot_KC.sum(0)[:, None].clamp(min=1)
    return lse.sum() - (z * means_CD[y]).sum() / TEMPERATURE


_compiled_flex: Any = None

WAYS: dict[str, Loss] = {"streamed": streamed, "dense": dense, "flex_attention": by_attention}


def backward(loss: Loss, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    inputs[0].grad = inputs[1].grad = None
    value = loss(*inputs)
    value.backward()
    assert inputs[0].grad is not None and inputs[1].grad is not None
    return value.detach(), inputs[0].grad, inputs[1].grad


def correctness(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Largest error of value and gradients, relative to the largest entry, against the dense form in float64."""
    anchors, keys = (48, 96) if options.tiny else (1024, 4096)
    seed = secrets.randbits(31)  # fresh ones every time; recorded
    exact = backward(dense, make_inputs(anchors, keys, device, torch.float64, seed))
    found: dict[str, Any] = {"anchors": anchors, "keys": keys, "seed": seed}
    for way, loss in WAYS.items():
        for name in ("fp64", "fp32", "tf32", "bf16"):
            found[f"{way}, {name}"] = attempt(lambda loss=loss, name=name: _errors(loss, name, exact, found, device))
    return found


def _errors(
    loss: Loss, name: str, exact: tuple[torch.Tensor, ...], found: dict[str, Any], device: torch.device
) -> dict[str, float]:
    dtype = {"fp64": torch.float64, "bf16": torch.bfloat16}.get(name, torch.float32)
    with arithmetic(name):
        got = backward(loss, make_inputs(found["anchors"], found["keys"], device, dtype, found["seed"]))
    return {
        what: float((a.double() - b).abs().max() / b.abs().max())
        for what, a, b in zip(("value", "anchors' gradient", "keys' gradient"), got, exact, strict=True)
    }


def speed(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Value and both gradients: time, memory, and the part of the measured peak that three matrix products make of it."""
    sizes = [(64, 256)] if options.tiny else [(2048, 16384), (8192, 131072)]
    found: dict[str, Any] = {}
    for name in ("fp32", "tf32", "bf16"):
        peak = peak_tflops(name, device)
        found[f"peak of matrix products, {name}, TFLOP/s"] = round(peak, 2)
        for anchors, keys in sizes:
            flops = 3 * 2 * anchors * keys * DIM
            for way, loss in WAYS.items():
                entry = attempt(lambda a=anchors, k=keys, w=loss, n=name: _time(w, n, a, k, device))
                if "ms" in entry:
                    entry["share of peak"] = round(flops / (entry["ms"] / 1000) / 1e12 / peak, 4)
                found[f"{way}, {name}, {anchors} x {keys}"] = entry
    return found


def _time(loss: Loss, name: str, anchors: int, keys: int, device: torch.device) -> dict[str, float]:
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    inputs = make_inputs(anchors, keys, device, dtype, seed=0)
    with arithmetic(name):
        return timed(lambda: backward(loss, inputs), device)
