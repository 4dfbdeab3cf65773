"""What every job does around its work: read the command line, collect mistakes, answer with the right exit code.

Exit codes: 0 done, 1 training failed, 2 a mistake in the options or the data (nothing was written), 130 stopped by the
user (the same command continues).
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import yaml

from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments, parse
from afa_dist.cli.specification import build
from afa_dist.config import Section
from afa_dist.config.fields import to_mapping
from afa_dist.errors import Problem, TrainingError, UserError

S = TypeVar("S", bound=Section)
Prepared = TypeVar("Prepared")

Check = Callable[[S], Prepared]
"""Looks at data and files, raises UserError, writes nothing."""
Execute = Callable[[S, Prepared], None]
PartialCheck = Callable[[Mapping[str, Any]], None]
"""Looks at data and files as far as a specification that is wrong elsewhere allows; raises UserError."""


def run_job(
    resolve: Callable[[Arguments], tuple[type[S], dict[str, Any]]],
    arguments: Arguments,
    *,
    check: Check[S, Prepared],
    partial_check: PartialCheck,
    dry_run: Execute[S, Prepared],
    execute: Execute[S, Prepared],
) -> int:
    """Do a job and return its exit code."""
    warnings.showwarning = _show_warning
    try:
        run = _specification(resolve, arguments, partial_check)
        if arguments.print_config:
            print(yaml.safe_dump(to_mapping(run), sort_keys=False), end="")
            return 0
        prepared = check(run)
        (dry_run if arguments.dry_run else execute)(run, prepared)
    except UserError as error:
        report(error.problems)
        return 2
    except TrainingError as error:
        print(f"afa-dist: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nafa-dist: stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _specification(
    resolve: Callable[[Arguments], tuple[type[S], dict[str, Any]]], arguments: Arguments, partial_check: PartialCheck
) -> S:
    problems = list(arguments.problems)
    run = None
    values: dict[str, Any] = {}
    try:
        cls, values = resolve(arguments)
        run = build(cls, values)
    except UserError as error:
        problems.extend(error.problems)
    if run is None or problems:
        try:
            partial_check(values)
        except UserError as error:
            problems.extend(error.problems)
        raise UserError(dict.fromkeys(problems))
    return run


def resolve_stage(cls: type[S], stage: str) -> Callable[[Arguments], tuple[type[S], dict[str, Any]]]:
    """How a job of one stage finds its options: default < recipe < command line."""

    def resolve(arguments: Arguments) -> tuple[type[S], dict[str, Any]]:
        recipe = recipes.read_yaml(arguments.config) if arguments.config else {}
        return cls, recipes.for_stage(recipe, arguments.stage or stage, recipes.nest(arguments.overrides))

    return resolve


def report(problems: Sequence[Problem]) -> None:
    """Print mistakes to stderr, one a line; one that several stages share is printed once, without their names."""
    problems = _without_repeats(problems)
    count = len(problems)
    print(f"afa-dist: {count} mistake{'s' if count != 1 else ''}, nothing was started", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)


def _without_repeats(problems: Sequence[Problem]) -> list[Problem]:
    def bare(problem: Problem) -> Problem:
        stage, _, rest = problem.where.partition(".")
        return Problem(rest, problem.what) if stage in recipes.STAGES and rest else problem

    counts = Counter(map(bare, dict.fromkeys(problems)))
    return list(dict.fromkeys(bare(problem) if counts[bare(problem)] > 1 else problem for problem in problems))


def parse_arguments(cls: type[Section], program: str, description: str, stages: Sequence[str] = ()) -> Arguments:
    return parse(cls, sys.argv[1:], program=program, description=description, stages=stages)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"afa-dist: warning: {message}", file=sys.stderr)
