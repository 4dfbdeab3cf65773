"""Whether a recorded specification is that of a run: what may differ when it goes on, and what may not."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from afa_dist.address import runs_root
from afa_dist.config import BaseRun, Section
from afa_dist.config.fields import hints_of, section_class, to_mapping
from afa_dist.errors import Problem, UserError

MAY_CHANGE = (
    "runs_dir",
    "data.path",
    "data.cache",
    "data.cache_gib",
    "data.generated",
    "tracking",
    "scaling.workers",
    "scaling.device",
    "scaling.threads",
    "scaling.compile",
    "scaling.max_failures",
    "scaling.timeout_seconds",
    "scaling.resize_seconds",
    "scaling.wait_seconds",
    "checkpoint.keep_last",
    "checkpoint.keep_best",
    "checkpoint.mirror",
    "shard",
    "merge",
    "time_limit",
    "gpu_share",
    "nearest",
    "parts",
    "optimiser.not_finite",
    "optimiser.max_skipped",
    "space",
    "max_trials",
    "budget_hours",
    "at_once",
    "trial_gpus",
    "max_failures",
    "resume",
    "require",
    "final",
    "final_attacks",
)
"""What a run may be resumed with other values of: where it computes, what is noted beside, where its images lie, which are
recognised by what is in them, what becomes of steps that would have ended it, how many checkpoints it keeps, which parts
an analysis has, how long a search goes on (its space is compared by what it says) and what becomes of its front."""

STAGES = ("pretrain", "finetune", "evaluate")
"""Sections of a search's specification that are specifications of runs."""

PATHS = ("init", "pretrained", "corruptions_path")
"""Options that name a place: two ways of writing one place are no difference."""

BY_CONTENT = ("model", "scorer", "images")
"""Options that name something which is recognised by what is in it: where it lies may change."""


def other_run_problems(recorded: Mapping[str, Any], run: BaseRun, place: str) -> Iterator[Problem]:
    """Whether `recorded`, the specification of the run at `place`, is that of `run`."""
    if differences := list(_differences(recorded, to_mapping(run), type(run))):
        yield Problem(
            "name",
            f"{place} holds a run with another specification ({'; '.join(differences)}); choose another name, or "
            "repeat its options to resume it",
        )


def same_place(one: Any, other: Any) -> bool:
    """Whether two options name one file or folder; relative ones start where `runs_root` says."""
    return isinstance(one, str) and isinstance(other, str) and runs_root(one).resolve() == runs_root(other).resolve()


def _differences(
    recorded: Mapping[str, Any], now: Mapping[str, Any], cls: type[Section] | None, prefix: str = ""
) -> Iterator[str]:
    usual = _defaults(cls) if cls is not None else {}
    for key in {**recorded, **now}:
        if _may_change(f"{prefix}{key}"):
            continue
        old, new = recorded.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, section_class(hints_of(cls).get(key)) if cls else None, f"{prefix}{key}.")
        elif f"{prefix}{key}" in BY_CONTENT and isinstance(old, str) and isinstance(new, str):
            continue
        elif key not in recorded and (not new or new == usual.get(key)):
            continue  # the option is younger than the record, and off or as it is by itself
        elif old != new and not (f"{prefix}{key}" in PATHS and same_place(old, new)):
            yield f"{prefix}{key}: recorded {old!r}, now {new!r}"


def _defaults(cls: type[Section]) -> dict[str, Any]:
    """What the options of a section are by themselves, as plain values."""
    found = {}
    for field in dataclasses.fields(cls):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            with contextlib.suppress(UserError):  # a section that cannot be without options of its own
                value = field.default_factory()
        if value is not dataclasses.MISSING:
            found[field.name] = to_mapping(value) if isinstance(value, Section) else value
    return found


def _may_change(name: str) -> bool:
    first, _, rest = name.partition(".")
    return name in MAY_CHANGE or (first in STAGES and rest in MAY_CHANGE)
