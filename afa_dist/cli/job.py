"""What every job does around its work: read the command line, collect mistakes, answer with the right exit code.

Exit codes: 0 done, 1 training failed, 2 a mistake in the options, the data or the cluster, 75 stopped after a warning with
all saved (EX_TEMPFAIL: try again), 130 stopped by the user; after 75 and 130 the same command continues.
"""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import yaml

from afa_dist.address import is_address
from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments, parse
from afa_dist.cli.console import reading_shown
from afa_dist.cli.mistakes import report
from afa_dist.cli.specification import build
from afa_dist.config import BaseRun, Section
from afa_dist.config.fields import to_mapping
from afa_dist.errors import DamageFound, LostWorker, Problem, Stopped, TrainingError, UserError, collected
from afa_dist.training.run_dir import RunDirectory

S = TypeVar("S", bound=Section)
Prepared = TypeVar("Prepared")

STOPPED = 75
"""Exit code of a run that heeded a warning. It is EX_TEMPFAIL of sysexits.h."""

STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.EFBIG}
"""Errors of a disk or a network folder, which are nobody's fault here."""

Resolve = Callable[[Arguments], tuple[type[S], dict[str, Any]]]
"""Finds the options of a run: the class to build, and nested values for it."""


@reading_shown()
def run_job(
    resolve: Resolve[S],
    arguments: Arguments,
    *,
    check: Callable[[S], Prepared],
    check_partly: Callable[[Mapping[str, Any]], object],
    dry_run: Callable[[S, Prepared], object],
    execute: Callable[[S, Prepared], object],
    shown: Callable[[S], Mapping[str, Any]] = to_mapping,
) -> int:
    """Do a job and return its exit code.

    check looks at data and files, raises UserError and writes nothing. check_partly does so as far as values that are
    wrong elsewhere allow, so that all mistakes are reported together. shown is what --print-config prints.
    """
    warnings.showwarning = _show_warning
    # torch's own notices about its next versions are for us, not for the person who runs a job.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    started = False
    try:
        run = _specification(resolve, arguments, check_partly)
        prepared = check(run) if arguments.dry_run or not arguments.print_config else None
        if arguments.print_config:
            print(yaml.safe_dump(shown(run), sort_keys=False), end="")
            return 0
        assert prepared is not None
        started = not arguments.dry_run
        (dry_run if arguments.dry_run else execute)(run, prepared)
    except UserError as error:
        report(error.problems, started=started)
        return 2
    except (LostWorker, TrainingError, DamageFound) as error:
        print(f"afa-dist: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"afa-dist: {where}{error.strerror}; what had been saved is intact, the same command continues", file=sys.stderr
        )
        return 1
    except Stopped as stopped:
        saved = f"all is saved here, but {stopped.lacking}" if stopped.lacking else "all is saved"
        print(f"afa-dist: stopped by {stopped}, {saved}; the same command continues", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        print("\nafa-dist: stopped; what was saved is kept, the same command continues", file=sys.stderr)
        return 130
    return 0


def _specification(resolve: Resolve[S], arguments: Arguments, check_partly: Callable[[Mapping[str, Any]], object]) -> S:
    problems = list(arguments.problems)
    run = None
    values: dict[str, Any] = {}
    with collected(problems):
        cls, values = resolve(arguments)
        run = build(cls, values)
    if run is None or problems:
        with collected(problems):
            check_partly(values)
        raise UserError(dict.fromkeys(problems))
    return run


def raise_any(problems: Iterable[Problem]) -> None:
    """Raise a UserError with `problems`, each once, if there are any."""
    unique = tuple(dict.fromkeys(problems))
    if unique:
        raise UserError(unique)


def resolve_stage(cls: type[S], stage: str) -> Resolve[S]:
    """How a job of one stage finds its options: default < recipe < command line."""

    def resolve(arguments: Arguments) -> tuple[type[S], dict[str, Any]]:
        recipe = recipes.read_recipe(arguments.config) if arguments.config else {}
        return cls, recipes.for_stage(recipe, arguments.stage or stage, recipes.nest(arguments.overrides))

    return resolve


def resolve_alone(cls: type[S]) -> Resolve[S]:
    """How a job finds its options that shares none with others: default < file < command line."""

    def resolve(arguments: Arguments) -> tuple[type[S], dict[str, Any]]:
        recipe: Mapping[str, Any] = recipes.read_recipe(arguments.config) if arguments.config else {}
        return cls, recipes.merge(recipe, recipes.nest(arguments.overrides))

    return resolve


def where_of(run: BaseRun) -> str:
    """The run directory, for people."""
    directory = RunDirectory.of(run)
    return f"{directory.place} (working copy {directory.path})" if is_address(run.runs_dir) else str(directory.path)


def parse_arguments(cls: type[Section], program: str, description: str, stages: Sequence[str] = ()) -> Arguments:
    return parse(cls, sys.argv[1:], program=program, description=description, stages=stages)


def run_command(commands: Mapping[str, tuple[str, Callable[[Sequence[str]], int]]], program: str, description: str) -> int:
    """Run a job of several commands, each with a line of help and what runs it; returns the exit code."""
    word, *rest = sys.argv[1:] or [""]
    if word in commands:
        return commands[word][1](rest)
    lines = [f"usage: {program} COMMAND [--config FILE] [--SECTION.OPTION VALUE ...]", "", description, ""]
    lines += [f"  {name:<10}{help}" for name, (help, _) in commands.items()]
    lines += ["", f"Options of a command: {program} {next(iter(commands))} --help"]
    if word in ("-h", "--help"):
        print("\n".join(lines))
        return 0
    given = f"{word!r} is not a command" if word else "needs a command"
    report([Problem(program, f"{given}; choose one of: {', '.join(commands)}")], started=False)
    return 2


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"afa-dist: warning: {message}", file=sys.stderr)
