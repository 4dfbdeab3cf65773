"""Collectives, and one that carries an exact gradient.

Legend: R rows of this rank, W ranks, ... any trailing dimensions.

The total loss of a step is the sum of what the ranks compute (divided by W by DDP afterwards). A row that this rank
sends out is used by every rank, so its gradient is the sum of what all of them send back. Leaving that sum out, or
keeping only the own slot alive, scales or bends the gradient; with it, W processes give the gradient of one process
on the whole batch (`tests/distributed/test_parity.py` shows it for W = 1, 2, 4).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

# torch 2.14 renamed them; the old names warn at every call.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.rows = rows.shape[0]
        return gather_detached(rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        return reduce_scatter(grad_outputs[0].contiguous(), ctx.rows)


def reduce_scatter(values: torch.Tensor, rows: int) -> torch.Tensor:
    """Sum `values` (W*R, ...) over all ranks and return this rank's `rows` = R rows of it."""
    if dist.get_backend() == "gloo":
        # Its reduce-scatter sums everything everywhere, which moves twice the bytes.
        parts = torch.empty_like(values)
        dist.all_to_all_single(parts, values)
        return parts.view(-1, rows, *values.shape[1:]).sum(dim=0)
    own = values.new_empty((rows, *values.shape[1:]))
    _reduce_scatter(own, values)
    return own


def gather_detached(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate `rows` (R, ...) of all ranks in rank order to (W*R, ...), without gradient.

    Every rank must bring the same number of rows.
    """
    size = world_size()
    if size == 1:
        return rows.detach()
    rows = rows.detach().contiguous()
    out = torch.empty((size * rows.shape[0], *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
    _all_gather(out, rows)
    return out


def gather(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate `rows` (R, ...) of all ranks in rank order to (W*R, ...), differentiably.

    The backward sums the gradients of all ranks (a reduce-scatter).
    """
    return rows if world_size() == 1 else _Gather.apply(rows)


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sum `values` over all ranks, without gradient."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total
