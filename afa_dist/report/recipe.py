"""How a model was trained, for people elsewhere: the specifications of its stages, without places of this machine."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from afa_dist.address import is_address
from afa_dist.errors import TrainingError
from afa_dist.training.mirroring import brought_here
from afa_dist.training.run_dir import RunDirectory

PLACES = ("runs_dir", "data.path", "data.cache", "data.cache_gib", "checkpoint.mirror")
"""Options that say where something lies on one machine, and nothing of what was done."""

SHORTENED = ("init", "data.generated")
"""Places whose last name says what was done."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training run. start: the provenance of its last start."""

    name: str
    run: Mapping[str, Any]
    start: Mapping[str, Any]

    @property
    def commit(self) -> str:
        """Of the code; says so if files differed from it."""
        code = self.start.get("code") or {}
        changed = " with changes that were not committed" if code.get("diff_sha256") else ""
        return f"{code['commit']}{changed}" if code.get("commit") else "not recorded (not run from a checkout)"


def stages_of(directory: RunDirectory) -> list[Stage]:
    """The stages that made the model in `directory`, first to last; none if it is no run directory.

    A pre-training run that has gone since, or lies at an address that does not answer, is left out.
    """
    run = directory.read_config()
    if not run:
        return []
    own = Stage("fine-tuning", run, directory.last_start())
    init = str(run.get("init", "scratch"))
    if init == "scratch" or init.endswith(".safetensors"):
        return [own]
    try:
        earlier = brought_here(init, checkpoints=False)
    except TrainingError:
        return [own]
    before = earlier.read_config()
    return [Stage("pre-training", before, earlier.last_start()), own] if before else [own]


def without_places(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`values` as they may be published: folders and addresses left out, or shortened to their last name."""
    shown: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            shown[key] = without_places(value, f"{name}.")
        elif name in SHORTENED and isinstance(value, str):
            shown[key] = last_name(value)
        elif name not in PLACES:
            shown[key] = value
    return shown


def last_name(place: str) -> str:
    """The last part of a path or an address, whose options may name hosts."""
    path = place.partition("?")[0] if is_address(place) else place
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
