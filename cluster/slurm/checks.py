"""Whether Slurm can ever give what is asked for; asked before anything is submitted."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator
from pathlib import Path

from afa_dist.errors import Problem
from cluster.slurm.commands import Partition, partitions
from cluster.slurm.request import Request


def request_problems(request: Request) -> Iterator[Problem]:
    """What of a request no partition of this Slurm can give, and what of it is not on this machine.

    Raises:
        UserError: Slurm does not answer.
    """
    known = {one.name: one for one in partitions()}
    names = ", ".join(sorted(known))
    wanted = request.partition.split(",") if request.partition else [one.name for one in known.values() if one.default]
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            yield Problem("partition", f"{name!r} is not known{meant} (there are: {names})")
    if not wanted:
        yield Problem("partition", f"is needed: this Slurm has no default one (there are: {names})")
    found = [list(_partition_problems(request, known[name])) for name in wanted if name in known]
    if found and all(found):  # Slurm takes the one of several that can give it
        yield from found[0]
    if request.container.kind == "apptainer" and not shutil.which("apptainer") and not request.setup:
        yield Problem("container.kind", "apptainer is not found on this machine (if a module has it, load that in setup)")
    if request.container.image.startswith(("/", "./", "~")) and not Path(request.container.image).expanduser().exists():
        yield Problem("container.image", f"{request.container.image} does not exist")


def _partition_problems(request: Request, offered: Partition) -> Iterator[Problem]:
    where = f"partition {offered.name}"
    if not offered.up:
        yield Problem("partition", f"{offered.name} is not up; choose another one, or wait")
    if request.nodes > offered.nodes:
        yield Problem("nodes", f"{request.nodes} are more than {where} has ({offered.nodes})")
    if request.cpus_per_task > offered.cpus:
        yield Problem("cpus_per_task", f"{request.cpus_per_task} are more than a node of {where} has ({offered.cpus})")
    if request.gpus_per_node > offered.gpus:
        yield Problem("gpus_per_node", f"{request.gpus_per_node} are more than a node of {where} has ({offered.gpus})")
    if offered.minutes is not None and request.minutes > offered.minutes:
        yield Problem("time", f"{request.time} is longer than {where} allows ({offered.minutes} minutes)")
    if request.mem and _megabytes(request.mem) > offered.memory_mb:
        yield Problem("mem", f"{request.mem} is more than a node of {where} has ({offered.memory_mb}M)")


def _megabytes(text: str) -> float:
    units = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
    return int(text.rstrip("KMGT")) * units[text[-1] if text[-1] in units else "M"]
