"""Drills: small runs that are killed on purpose, to see that nothing is lost here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from afa_dist.address import fault_of
from afa_dist.config.fields import Section, setting
from afa_dist.errors import Problem

WAYS = ("process", "torchrun", "ray", "store")


@dataclasses.dataclass(kw_only=True, frozen=True)
class DrillRun(Section):
    """How many rounds, of what."""

    job: Literal["pretrain", "generate"] = setting("pretrain", "what is killed: pretrain.py, or generate.py train")
    rounds: int = setting(9, "runs to kill and to start again; the ways take turns", ge=1)
    blows: int = setting(3, "most times that one of them is killed, warned or damaged", ge=1)
    seed: int = setting(0, "seed of when and how", ge=0)
    ways: tuple[str, ...] = setting(
        WAYS[:3],
        f"where they run: {', '.join(WAYS)}; torchrun and ray with two workers, store in an object store (see store), with "
        "machines that are lost; one named twice has two turns",
    )
    store: str | None = setting(None, "address of the folder (s3://, gs://, hdfs://, file://) for the way store")
    runs_dir: str = setting("runs", "folder that holds run directories: the place whose disk is tried")
    name: str = setting("drill", "folder in it for this drill; it must be new")

    def problems(self) -> Iterator[Problem]:
        unknown = [way for way in self.ways if way not in WAYS]
        if unknown or not self.ways:
            yield Problem("ways", f"{', '.join(unknown) or 'none'}: give some of {', '.join(WAYS)}")
        if ("store" in self.ways) != (self.store is not None):
            yield Problem("store", "an address is needed for the way store, and for no other")
        if self.store is not None and (fault := fault_of(self.store)):
            yield Problem("store", fault)
        if self.name in ("", ".", "..") or "/" in self.name:
            yield Problem("name", f"{self.name!r} cannot be a folder's name; use letters, digits, '-' and '_'")
