"""A set that is to be prepared: what of it is there already, and what is in the way."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afa_dist.config.preparing import PrepareRun
from afa_dist.data.layout import Layout
from afa_dist.data.open_shards import ShardFile
from afa_dist.data.preparing import KEPT
from afa_dist.data.set_place import RECORD
from afa_dist.data.sources.base import Source
from afa_dist.errors import Problem

IDENTITY = f"{KEPT}/preparing.json"


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A checked preparation: what is read, and how it is stored in `dest`."""

    run: PrepareRun
    source: Source
    layout: Layout
    dest: Path
    licence: str

    @property
    def aside(self) -> Path:
        """See `aside_of`."""
        return aside_of(self.dest)

    def identity(self) -> dict[str, Any]:
        """What the files depend on."""
        return {
            "source": dict(self.source.identity),
            "classes": list(self.source.classes),
            "layout": {**dataclasses.asdict(self.layout), "shape": list(self.layout.shape or ()) or None},
            "images": {split: len(labels) for split, labels in self.source.labels.items()},
        }


def dest_problems(dest: Path) -> Iterator[Problem]:
    """Whether there is no place for the files."""
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        yield Problem("dest", f"{dest} exists and is not an empty folder; choose another one")
        return
    above = next(parent for parent in (dest, *dest.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "cannot be written to" if above.is_dir() else "is a file"
        yield Problem("dest", f"{dest} cannot be made: {above} {what}; choose another place")


def finished(preparation: Preparation) -> dict[str, Any] | None:
    """The record of the set in `dest`, if it is this one and whole."""
    record = _read(preparation.dest / RECORD)
    try:
        files = [ShardFile(**file) for split in record["splits"].values() for file in (*split["files"], split["labels"])]
        same = record["made_as"] == json.loads(json.dumps(preparation.identity()))
        whole = all((preparation.dest / file.name).stat().st_size == file.bytes for file in files)
    except (OSError, KeyError, TypeError):
        return None
    return record if same and whole else None


def begun_problems(preparation: Preparation) -> Iterator[Problem]:
    """Whether another preparation for the same place was begun and not finished."""
    recorded = _read(preparation.aside / IDENTITY)
    if recorded is None:
        return
    identity = preparation.identity()
    if preparation.source.in_parts:  # then it is seen file by file whether images are the same
        recorded, identity = map(_but_images, (recorded, identity))
    if recorded != identity:
        what = f"{preparation.aside} holds the beginning of a set with {', '.join(_differences(recorded, identity))}"
        yield Problem("dest", f"{what}; repeat those to finish it, remove it, or choose another dest")


def _differences(recorded: dict[str, Any], identity: dict[str, Any]) -> Iterator[str]:
    """What was otherwise, in words."""
    if any(recorded[name] != identity[name] for name in ("source", "images", "classes")):
        yield f"another source ({recorded['source'].get('name') or recorded['source'].get('kind')}, or what it held)"
    for name, value in recorded["layout"].items():
        if value != (now := identity["layout"].get(name)):
            yield f"{name} {value}, not {now}"


def _but_images(identity: dict[str, Any]) -> dict[str, Any]:
    return {**identity, "source": {**identity["source"], "files": ""}, "images": {}}


def begun_layout(layout: Layout, run: PrepareRun, dest: Path) -> Layout:
    """`layout`, with files of the size that was begun with, where none is asked for: it follows from images that may have
    been mended since."""
    recorded = _read(aside_of(dest) / IDENTITY)
    if recorded is None or run.shard_size:
        return layout
    return dataclasses.replace(layout, shard_size=recorded["layout"]["shard_size"])


def aside_of(dest: Path) -> Path:
    """Where files are gathered until all are there."""
    return dest.with_name(f".{dest.name}.preparing")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
