"""What a new record of a grid would take away from the one that lies there already."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SAME = ("threat", "part", "attacks", "images", "data_fingerprint")
"""What one record has one value of."""


def figures_lost(path: Path, new: Mapping[str, Any]) -> list[str]:
    """Why `new` must not be written over the record at `path`: figures of other runs, or of runs that `new` lacks.

    What one of both does not say is not compared, so that a plan (variants with their seeds and options, not yet any
    figures) can be held against a record before the work starts. Empty if nothing would be lost.
    """
    try:
        old = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except ValueError:
        return ["it is not JSON"]
    if not isinstance(old, dict) or not isinstance(old.get("variants"), dict):
        return ["it is not the record of a grid"]
    return [*_changed({key: old.get(key) for key in SAME}, new, ""), *_of_variants(old["variants"], new["variants"])]


def _of_variants(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name, variant in old.items():
        own = new.get(name, {"seeds": []})
        if missing := [seed for seed in variant["seeds"] if seed not in own["seeds"]]:
            yield f"{name} with seed {', '.join(map(str, missing))}"
        yield from _changed(variant["config"], own.get("config", {}), f"{name}.")


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in old.items():
        if value is None or new.get(key) is None:
            continue
        if isinstance(value, Mapping) and isinstance(new[key], Mapping):
            yield from _changed(value, new[key], f"{prefix}{key}.")
        elif value != json.loads(json.dumps(new[key])):
            yield f"{prefix}{key} {value!r}, now {new[key]!r}"
