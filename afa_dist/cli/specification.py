"""From nested mappings to a checked run: every mistake is collected before anything is reported.

Types are converted by pydantic, field by field; ranges and rules live with the dataclasses in `afa_dist.config`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic

from afa_dist.config.fields import (
    PixelDistance,
    Section,
    check_value,
    fraction,
    hints_of,
    is_pixel_distance,
    section_class,
    strip_annotation,
)
from afa_dist.config.scaling import WORKER_COUNT_WORDS, WorkerCount, is_range
from afa_dist.errors import Problem, UserError

S = TypeVar("S", bound=Section)

_SPECIAL_WORDS = {PixelDistance: "a number or a fraction such as 8/255", WorkerCount: WORKER_COUNT_WORDS}
_TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def build(cls: type[S], values: Mapping[str, Any]) -> S:
    """Make a `cls` from nested mappings.

    Raises:
        UserError: unknown keys, values of the wrong type, out of range, or at odds with each other; all of them,
            except rules about several values of a section one of which is already wrong.
    """
    made, problems = _build(cls, values)
    if problems or made is None:
        raise UserError(dict.fromkeys(problems))
    return made


def _build(cls: type[S], values: Mapping[str, Any]) -> tuple[S | None, list[Problem]]:
    hints = hints_of(cls)
    problems = [unknown_option(key, hints) for key in values if key not in hints]
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name not in values:
            continue
        value, hint = values[field.name], hints[field.name]
        nested = section_class(hint)
        if nested is not None:
            if not isinstance(value, Mapping):
                problems.append(Problem(field.name, f"is a section with options of its own, not {value!r}"))
                continue
            inner, inner_problems = _build(nested, value)
            problems.extend(problem.under(field.name) for problem in inner_problems)
            arguments[field.name] = inner
        else:
            arguments[field.name], found = _convert(field, hint, value)
            problems.extend(found)
    if problems:
        return None, problems
    try:
        return cls(**arguments), []
    except UserError as error:
        return None, list(error.problems)


def unknown_option(key: str, hints: Iterable[str]) -> Problem:
    """The mistake of naming an option that there is not, with the nearest of those there are."""
    hints = list(hints)
    close = difflib.get_close_matches(str(key), hints, n=1)
    meant = f"; did you mean {close[0]}?" if close else ""
    return Problem(str(key), f"is not an option{meant} (valid here: {', '.join(hints)})")


def _convert(field: dataclasses.Field[Any], hint: Any, value: Any) -> tuple[Any, list[Problem]]:
    """Convert one plain value; ranges and choices are checked here too, so that all fields get their say."""
    plain = strip_annotation(hint)
    if is_pixel_distance(hint) and isinstance(value, str):
        value = fraction(value)
    if hint == WorkerCount:
        plain = str if isinstance(value, str) and is_range(value) else int
    if get_origin(plain) is tuple and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if _is_optional(plain) and isinstance(value, str) and value.lower() in ("null", "none", ""):
        value = None
    if get_origin(plain) is Literal:
        value = next((choice for choice in get_args(plain) if str(choice) == value), value)  # words may stand for numbers
    else:
        try:
            value = _adapter(plain).validate_python(value)
        except pydantic.ValidationError:
            expected = _type_words(hint if hint in _SPECIAL_WORDS else plain)
            return None, [Problem(field.name, f"{value!r} is not {expected}")]
    return value, list(check_value(field.name, value, plain, field.metadata))


@functools.cache
def _adapter(hint: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(hint, config=pydantic.ConfigDict(coerce_numbers_to_str=True))


def _is_optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _type_words(hint: Any) -> str:
    if hint in _SPECIAL_WORDS:
        return _SPECIAL_WORDS[hint]
    if get_origin(hint) is tuple:
        return "a list, or words with commas between them"
    if _is_optional(hint):
        return _type_words(next(arm for arm in get_args(hint) if arm is not type(None))) + ", or null"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    return _TYPE_WORDS[hint]


def leaves(cls: type[Section], prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every option of `cls`: dotted name, type and field, in order, plain options before sections."""
    sections = []
    for field in dataclasses.fields(cls):
        hint = hints_of(cls)[field.name]
        if nested := section_class(hint):
            sections.append((nested, f"{prefix}{field.name}."))
        else:
            yield f"{prefix}{field.name}", hint, field
    for nested, inner in sections:
        yield from leaves(nested, inner)
