"""The command line of a job: every option of its specification as a flag, all mistakes collected."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from afa_dist.cli.recipes import STAGES
from afa_dist.cli.specification import leaves
from afa_dist.config.fields import Section, describe_bounds, hints_of, is_pixel_distance, section_class, strip_annotation
from afa_dist.config.scaling import WorkerCount
from afa_dist.errors import Problem

_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What was typed: the recipe file, dotted overrides as text, and what to do instead of running."""

    config: str | None
    overrides: dict[str, str]
    print_config: bool
    dry_run: bool
    stage: str | None
    problems: tuple[Problem, ...]


def parse(
    cls: type[Section], argv: Sequence[str], *, program: str, description: str, stages: Sequence[str] = ()
) -> Arguments:
    """Read `argv`; mistakes are returned, not raised, so that they can be reported with those of the recipe."""
    parser = _parser(cls, program, description, stages)
    known, rest = parser.parse_known_args([_underscored(word) for word in argv])
    flags = {name: getattr(known, name) for name, _, _, _ in _flags(cls)}
    switches = {name for name, hint, _, _ in _flags(cls) if strip_annotation(hint) is bool}
    flags |= {name: "true" for name in switches if flags[name] is _MISSING}
    problems = [Problem(f"--{name}", "needs a value") for name, value in flags.items() if value is _MISSING]
    problems.extend(_leftover(rest, [f"--{name}" for name in flags] + ["--config", "--print-config", "--dry-run"]))
    if known.config is _MISSING:
        problems.append(Problem("--config", "needs the path of a YAML file"))
    if known.stage not in (None, *stages):
        problems.append(Problem("--stage", f"{known.stage!r} is not known; choose one of: {', '.join(stages) or 'none'}"))
    overrides = {name: value for name, value in flags.items() if value is not None and value is not _MISSING}
    config = known.config if isinstance(known.config, str) else None
    stage = known.stage if known.stage in stages else None
    return Arguments(config, overrides, known.print_config, known.dry_run, stage, tuple(problems))


def _underscored(word: str) -> str:
    """`--time-limit` for `--time_limit`: both are common, and options of a run have no dashes."""
    flag, equals, value = word.partition("=")
    if flag in ("--print-config", "--dry-run") or not flag.startswith("--"):
        return word
    return "--" + flag[2:].replace("-", "_") + equals + value


def _parser(cls: type[Section], program: str, description: str, stages: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=description, allow_abbrev=False, formatter_class=_Formatter, argument_default=None
    )
    parser.add_argument("--config", nargs="?", const=_MISSING, metavar="FILE", help="recipe (YAML); flags override it")
    parser.add_argument("--print-config", action="store_true", help="print the resolved run as YAML and stop")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would run where, and stop")
    stage_help = f"stage of the recipe to take: {', '.join(stages)}" if stages else argparse.SUPPRESS
    parser.add_argument("--stage", help=stage_help)
    groups: dict[str, Any] = {}
    for name, hint, field, shown in _flags(cls):
        section_name = name.rpartition(".")[0] if shown else ""
        if section_name not in groups:
            groups[section_name] = parser.add_argument_group(section_name or "run")
        text = _help(field, hint) if shown else argparse.SUPPRESS
        groups[section_name].add_argument(
            f"--{name}", dest=name, nargs="?", const=_MISSING, metavar=_metavar(hint), help=text
        )
    return parser


def _flags(cls: type[Section]) -> Iterator[tuple[str, Any, dataclasses.Field[Any], bool]]:
    """Every flag: dotted name, type, field, and whether --help lists it.

    A job of several stages takes the options of each stage twice: with the stage's name in front, and without it for
    all stages at once. Help lists the latter.
    """
    seen = set()
    nested = [name for name, hint in hints_of(cls).items() if name in STAGES and section_class(hint)]
    for name, hint, field in leaves(cls):
        seen.add(name)
        yield name, hint, field, name.partition(".")[0] not in nested
    for stage in nested:
        for name, hint, field in leaves(STAGES[stage]):
            if name not in seen:
                seen.add(name)
                yield name, hint, field, True


def _metavar(hint: Any) -> str:
    plain = strip_annotation(hint)
    if get_origin(plain) is Literal:
        return "{" + ",".join(map(str, get_args(plain))) + "}"
    if is_pixel_distance(hint):
        return "PIXELS"
    if hint == WorkerCount:
        return "N|A..B"
    if get_origin(plain) is tuple:
        return "A,B,..."
    return {int: "N", float: "X", bool: "true|false"}.get(plain, "TEXT")


def _help(field: dataclasses.Field[Any], hint: Any) -> str:
    bounds = describe_bounds(field.metadata)
    default = field.default
    if is_pixel_distance(hint) and isinstance(default, float) and default:
        shown = f"{round(default * 255, 3):g}/255"
    elif isinstance(default, tuple):
        shown = ",".join(map(str, default)) or "none"
    elif isinstance(default, bool):
        shown = str(default).lower()
    else:
        shown = "none" if default in (None, "") else str(default)
    parts = [field.metadata["help"], f"[{bounds}]" if bounds else "", f"(default: {shown})"]
    return " ".join(part for part in parts if part).replace("%", "%%")


def _leftover(rest: Sequence[str], known: Sequence[str]) -> list[Problem]:
    """What argparse did not recognise; the value after an unknown flag belongs to it."""
    problems = []
    after_flag = False
    for word in rest:
        if word.startswith("--"):
            flag = word.partition("=")[0]
            # `--eps` for `--threat.eps`: the last part is what people remember.
            named = [name for name in known if name.rpartition(".")[2] == flag.removeprefix("--")]
            close = named or difflib.get_close_matches(flag, known, n=1)
            meant = f"did you mean {' or '.join(close[:3])}?" if close else "see --help"
            problems.append(Problem(flag, f"is not an option; {meant}"))
        elif not after_flag:
            hint = f"; write --model {word}" if "--model" in known else ""
            problems.append(Problem(word, f"is not an option; options start with --{hint}"))
        after_flag = word.startswith("--") and "=" not in word
    return problems


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=38, width=110)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        # The generated usage would list a hundred flags.
        super().add_usage("%(prog)s [--config FILE] [--SECTION.OPTION VALUE ...]", actions, groups, prefix)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        # Values are optional to argparse only so that missing ones can be reported together; do not show them so.
        return str(action.metavar or "") if action.nargs == "?" else super()._format_args(action, default_metavar)
