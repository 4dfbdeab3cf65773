"""Whoever computes calls, in this process or elsewhere, and is watched meanwhile."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch

from afa_dist.config.attack_names import GRADIENT

Calls = Mapping[str, Callable[..., Any]]
"""What an executor can be asked for, by name; each takes what the executor was made with first."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """what: words for it. done: share of the work, 0 to 1. seconds_left: about; None before there is anything to go by."""

    what: str
    done: float
    seconds_left: float | None


TICK_SECONDS = 0.2
"""Least time between two looks around within an attack."""

OnProgress = Callable[[Progress], None]

Stop = Callable[[], str]
"""Gives the reason to end, or an empty text."""


class Executor(Protocol):
    """Computes calls, as many at once as it likes."""

    @property
    def free(self) -> int:
        """How many more calls may be begun now."""

    def begin(self, key: Any, call: str, *args: Any) -> None:
        """Begin a call; `key` comes back with its result."""

    def finished(self, tick: Callable[[], None]) -> Iterable[tuple[Any, Any]]:
        """Keys and results of calls that have ended; waits for a while if none has. tick: called now and then meanwhile;
        what it raises ends the waiting."""

    def cancel(self) -> None:
        """Give up what was begun."""

    def busy_seconds(self) -> float:
        """How long the calls that are not finished have run, together."""

    def passes(self) -> float:
        """Passes of images that the call in progress has made, one with its gradient counted as three; 0 if not known."""


def call_each(calls: Iterable[tuple[Any, ...]], executor: Executor, tick: Callable[[], None]) -> Iterator[tuple[int, Any]]:
    """Numbers (from 0) and results of calls (name and arguments each), as they come; what is begun is given up when the
    caller ends early."""
    waiting = enumerate(calls)  # their arguments may be large: made when they are needed
    begun = ended = 0
    try:
        while True:
            while executor.free and (call := next(waiting, None)):
                number, (name, *args) = call
                executor.begin(number, name, *args)
                begun += 1
            if ended == begun:
                return
            for found in executor.finished(tick):
                ended += 1
                yield found
    except BaseException:
        executor.cancel()
        raise


def call_all(calls: Iterable[tuple[Any, ...]], executor: Executor, tick: Callable[[], None]) -> list[Any]:
    """Results of calls, in their order; see `call_each`."""
    results = dict(call_each(calls, executor, tick))
    return [results[number] for number in range(len(results))]


class InProcess:
    """The executor that computes here, one call at a time.

    subject: the first argument of all calls; if it has a `net`, passes of images through that are counted, and are moments
    to look around. calls: what it can be asked for, by name.
    """

    def __init__(self, subject: Any, calls: Calls) -> None:
        self.subject = subject
        self.calls = calls
        self._call: tuple[Any, str, tuple[Any, ...]] | None = None
        self._began = 0.0
        self._ticked = 0.0
        self._passes = 0.0

    @property
    def free(self) -> int:
        return 0 if self._call else 1

    def begin(self, key: Any, call: str, *args: Any) -> None:
        self._call = (key, call, args)

    def finished(self, tick: Callable[[], None]) -> Iterable[tuple[Any, Any]]:
        assert self._call is not None
        key, call, args = self._call
        self._began, self._passes = time.monotonic(), 0.0

        def look(_: object, args: tuple[Any, ...]) -> None:
            images = len(args[0]) if args and isinstance(args[0], torch.Tensor) else 0
            self._passes += images * (GRADIENT if torch.is_grad_enabled() else 1)
            if time.monotonic() - self._ticked > TICK_SECONDS:
                self._ticked = time.monotonic()
                tick()

        net = getattr(self.subject, "net", None)
        passes = net.register_forward_pre_hook(look) if net is not None else None  # an attack may take hours
        try:
            result = self.calls[call](self.subject, *args)
        finally:
            if passes is not None:
                passes.remove()
            self._call = None
        return [(key, result)]

    def cancel(self) -> None:
        self._call = None

    def busy_seconds(self) -> float:
        return time.monotonic() - self._began if self._call else 0.0

    def passes(self) -> float:
        return self._passes if self._call else 0.0
