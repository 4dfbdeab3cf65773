"""The options of the cache for sets at addresses, which several jobs have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from afa_dist.address import is_address
from afa_dist.config.fields import setting
from afa_dist.errors import Problem


def cache_setting() -> Any:
    """Which folder."""
    return setting(
        None, "folder of this machine for copies of prepared sets that lie at addresses; none = ~/.cache/afa-dist/sets"
    )


def cache_gib_setting() -> Any:
    """How large it may become."""
    return setting(100.0, "GiB that copies of sets may take there; those that nobody reads make room", gt=0)


def cache_problems(cache: str | None) -> Iterator[Problem]:
    """What is wrong with the folder."""
    if cache is not None and is_address(cache):
        yield Problem("cache", "is an address; copies go into a folder of this machine")
