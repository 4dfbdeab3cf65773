"""Clock, memory and arithmetic of the GPU benchmark. On a CPU the same calls do what they can."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device, repeats: int = 5, warm_up: int = 2) -> dict[str, float]:
    """Milliseconds of `work`, median, lowest and highest over repeats; its peak memory beyond what was held, MB."""
    for _ in range(warm_up):
        work()
    synchronise(device)
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        synchronise(device)
        taken.append(1000 * (time.perf_counter() - start))
    found = {"ms": statistics.median(taken), "min_ms": min(taken), "max_ms": max(taken)}
    if device.type == "cuda":
        found["extra_mb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e6
    return {name: round(value, 3) for name, value in found.items()}


@contextlib.contextmanager
def arithmetic(name: str) -> Iterator[None]:
    """fp32: matrix products in full single precision; tf32: on tensor cores with 10 bits of mantissa; bf16: see callers."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def peak_tflops(name: str, device: torch.device) -> float:
    """Measured speed of large square matrix products, 10^12 flops a second."""
    n = 8192 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    with arithmetic(name):
        return 2 * n**3 / (timed(lambda: a @ b, device)["min_ms"] / 1000) / 1e12


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` finds, or why it could not: a kernel that does not exist here is a result too."""
    try:
        return work()
    except Exception as error:
        torch.cuda.empty_cache()
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]}
