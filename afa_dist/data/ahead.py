"""Fetching what comes next while what is there is used."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """`fetch(step)`, made by a thread before it is asked for if the last call was for the step before.

    Any step may be asked for at any time; the result is that of `fetch`, and so are its exceptions.
    """

    def __init__(self, fetch: Callable[[int], T]) -> None:
        self._fetch = fetch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="afa-dist-ahead")
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        ready, self._next = self._next, None
        now = ready[1] if ready is not None and ready[0] == step else self._thread.submit(self._fetch, step)
        self._next = step + 1, self._thread.submit(self._fetch, step + 1)
        return now.result()
