"""Who else takes part in this run: rank, size and device, and the few collectives that need no gradient."""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

_TEXT_BYTES = 1000
_LET_GO_SECONDS = 0.25
"""On a machine with a core for each process that wants one."""


@dataclasses.dataclass(frozen=True)
class World:
    """The place of this process among the workers of a run.

    rank: 0 .. size-1. size: number of workers, 1 without a process group. device: where this worker computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def current(cls, device: torch.device | None = None) -> World:
        """Describe the default process group, or a world of one when there is none."""
        device = device or torch.device("cpu")
        if dist.is_available() and dist.is_initialized():
            return cls(rank=dist.get_rank(), size=dist.get_world_size(), device=device)
        return cls(device=device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, values: torch.Tensor) -> torch.Tensor:
        """Add `values` over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def all_true(self, *flags: torch.Tensor | bool) -> list[bool]:
        """For each flag (a bool, or a 0-d boolean tensor) whether it holds on every rank; every rank gets the same answers.

        One collective and one wait for the device for all of them.
        """
        agreed = torch.stack([torch.as_tensor(flag, dtype=torch.float32, device=self.device) for flag in flags])
        if self.size > 1:
            dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
        return [value > 0.5 for value in agreed.tolist()]

    def texts(self, text: str) -> list[str]:
        """The `text` of every rank, in order, each cut to 1,000 bytes; every rank gets the same list."""
        if self.size == 1:
            return [text]
        row = torch.zeros(_TEXT_BYTES, dtype=torch.uint8, device=self.device)
        data = text.encode()[:_TEXT_BYTES]
        row[: len(data)] = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)].to(self.device)
        rows = [torch.empty_like(row) for _ in range(self.size)]
        dist.all_gather(rows, row)
        return [bytes(r.cpu().tolist()).rstrip(b"\0").decode(errors="ignore") for r in rows]

    def said(self, value: Any = None) -> Any:
        """What the main worker gives for `value` (any JSON), on every rank; what the others give does not count."""
        if self.size == 1:
            return value
        data = json.dumps(value).encode() if self.is_main else b""
        length = torch.tensor([len(data)], device=self.device)
        dist.broadcast(length, src=0)
        text = torch.zeros(int(length.item()), dtype=torch.uint8, device=self.device)
        if self.is_main:
            text.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(text, src=0)
        return json.loads(text.cpu().numpy().tobytes())

    def given(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The named `tensors` of the main worker, on the CPU of every rank; what the others give does not count."""
        if self.size == 1:
            return dict(tensors)
        kinds = {name: (str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in tensors.items()}
        found = {}
        for name, (dtype, shape) in self.said(kinds).items():
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            if self.is_main:
                tensor.copy_(tensors[name])
            dist.broadcast(tensor, src=0)
            found[name] = tensor.cpu()
        return found

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def join_group(backend: str, **where: Any) -> None:
    """`torch.distributed.init_process_group(backend, **where)`; the process leaves the group when it ends."""
    dist.init_process_group(backend, **where)
    atexit.register(_leave_group)


def _leave_group() -> None:
    """Destroy the process group and give gloo's threads time to let go of its tensors.

    DDP keeps the threads alive when it is gone itself (torch 2.14), so that nobody can join them. One that has not yet
    released the last collective's tensors when the interpreter ends aborts the process (pytorch/pytorch, pull 179291): a
    run that is complete looks like one that crashed. A thread needs microseconds, but waits for its turn on a busy machine.
    """
    if dist.is_initialized():
        has_threads = dist.get_backend() == "gloo"
        dist.destroy_process_group()
        if has_threads:
            time.sleep(_LET_GO_SECONDS * min(8.0, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))))
