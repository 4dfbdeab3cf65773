"""Mistakes of the user, as opposed to faults of the program."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator


@dataclasses.dataclass(frozen=True)
class Problem:
    """One mistake: where it is (an option such as `attack.eps`, or a file) and what to do about it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what

    def under(self, prefix: str) -> Problem:
        """The same mistake seen from one section further out."""
        return Problem(".".join(part for part in (prefix, self.where) if part), self.what)


class UserError(ValueError):
    """Every mistake found so far. The command line prints them and exits with code 2, without a traceback."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[tuple[Problem, ...]]]:
        # An exception is rebuilt from its arguments when it crosses a process border.
        return (type(self), (self.problems,))

    @classmethod
    def one(cls, where: str, what: str) -> UserError:
        return cls([Problem(where, what)])


class UnreachableError(UserError):
    """Data cannot be reached now, or not be copied here; which says nothing of what they are."""


@contextlib.contextmanager
def collected(problems: list[Problem], but: type[UserError] | tuple[()] = ()) -> Iterator[None]:
    """Add the mistakes of a UserError raised inside to `problems`, and go on; `but` is raised on."""
    try:
        yield
    except but:
        raise
    except UserError as error:
        problems.extend(error.problems)


@contextlib.contextmanager
def named_by(option: str) -> Iterator[None]:
    """Mistakes of data that are raised inside are those of `option`, which named the data: whoever reads them knows it as
    `data.path` and the like. What is wrong with the cache stays its own."""

    def named(problem: Problem) -> Problem:
        of_data = problem.where.startswith("data.") and not problem.where.startswith("data.cache")
        return Problem(option, problem.what) if of_data else problem

    try:
        yield
    except UserError as error:
        raise type(error)(map(named, error.problems)) from error


class DamageFound(RuntimeError):
    """Data were looked at, and a part of them cannot be used."""


class TrainingError(RuntimeError):
    """Training cannot go on for a reason the user should read (for example a loss that is not finite)."""


class Stopped(RuntimeError):
    """Training was warned that its time is over (a signal, a node that is taken away), saved its state and ended.

    lacking: what could not be copied to where the run lies, if anything.
    """

    def __init__(self, reason: str, lacking: str = "") -> None:
        self.lacking = lacking
        super().__init__(reason)


class LostWorker(RuntimeError):
    """Another worker of this run is gone. A launcher that can replace it starts all of them again."""
