"""How a run's settings are declared: keyword-only dataclasses whose fields carry help, unit and allowed range."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from afa_dist.errors import Problem, UserError

PixelDistance = Annotated[float, "pixel distance"]
"""A distance on the [0, 1] pixel scale. In files and on the command line `8/255` may stand for it."""


def pixels(distance: float) -> str:
    """A pixel distance as people write it: 8/255, or 0.2."""
    steps = distance * 255
    is_short = distance == round(distance, 3)
    return f"{round(steps)}/255" if not is_short and abs(steps - round(steps)) < 1e-6 else f"{distance:.4g}"


def setting(
    default: Any, help: str, *, ge: float | None = None, gt: float | None = None, le: float | None = None, hint: str = ""
) -> Any:
    """Declare a field: its default, a line of help with the unit and special values, its bounds, and a hint for
    whoever misses them."""
    metadata = {"help": help, "ge": ge, "gt": gt, "le": le, "hint": hint}
    return dataclasses.field(default=default, metadata=metadata)


def section(default_factory: Any, help: str) -> Any:
    """Declare a nested section."""
    return dataclasses.field(default_factory=default_factory, metadata={"help": help})


def describe_bounds(metadata: typing.Mapping[str, Any]) -> str:
    """Words for the bounds of a field, such as 'above 0 and at most 1'; empty without bounds."""
    parts = []
    if metadata.get("gt") is not None:
        parts.append(f"above {metadata['gt']:g}")
    if metadata.get("ge") is not None:
        parts.append(f"at least {metadata['ge']:g}")
    if metadata.get("le") is not None:
        parts.append(f"at most {metadata['le']:g}")
    return " and ".join(parts)


def strip_annotation(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def is_pixel_distance(hint: Any) -> bool:
    """Whether `8/255` may be written for a field of this type."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(is_pixel_distance(arm) for arm in get_args(hint))
    return get_origin(hint) is Annotated and "pixel distance" in get_args(hint)[1:]


def section_class(hint: Any) -> type[Section] | None:
    """The section class in a type such as `DataConfig` or `DataConfig | None`, or None for a plain value."""
    for arm in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if isinstance(arm, type) and issubclass(arm, Section):
            return arm
    return None


@dataclasses.dataclass(kw_only=True, frozen=True)
class Section:
    """Base of every section: checks values on construction and reports all mistakes of the section together."""

    def __post_init__(self) -> None:
        problems = [*self._range_problems()]
        if not problems:
            problems = [*self.problems()]
        if problems:
            raise UserError(problems)

    def problems(self) -> Iterator[Problem]:
        """Mistakes that involve more than one field; subclasses extend this. Ranges and choices are already right."""
        yield from ()

    def _range_problems(self) -> Iterator[Problem]:
        hints = hints_of(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            yield from check_value(field.name, value, strip_annotation(hints[field.name]), field.metadata)


def hints_of(cls: type[Section]) -> typing.Mapping[str, Any]:
    """The types of a section's fields, `Annotated` kept. They are looked up once: a search makes thousands of sections."""
    return _hints_of(cls)  # type: ignore[arg-type]  # classes can be hashed, whatever their instances say


@functools.cache
def _hints_of(cls: Any) -> typing.Mapping[str, Any]:
    return types.MappingProxyType(typing.get_type_hints(cls, include_extras=True))


def check_value(where: str, value: Any, hint: Any, metadata: typing.Mapping[str, Any]) -> Iterator[Problem]:
    """Check one value against its bounds and, for a Literal, its choices."""
    if get_origin(hint) is Literal and value not in get_args(hint):
        allowed = ", ".join(str(choice) for choice in get_args(hint))
        yield Problem(where, f"{value!r} is not known; choose one of: {allowed}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, above, high = metadata.get("ge"), metadata.get("gt"), metadata.get("le")
        outside = (
            not math.isfinite(value)
            or (low is not None and value < low)
            or (above is not None and value <= above)
            or (high is not None and value > high)
        )
        if outside:
            bounds = describe_bounds(metadata) or "a finite number"
            advice = f" ({metadata['hint']})" if metadata.get("hint") else ""
            yield Problem(where, f"{value:g} is not allowed; it must be {bounds}{advice}")


def fraction(text: str) -> float | str:
    """The value of text such as 8/255; all other text as it is."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*", text)
    return float(match[1]) / float(match[2]) if match and float(match[2]) else text


def radius(value: float | str) -> float:
    """A pixel distance given as a number or as text such as 8/255.

    Raises:
        UserError: it is neither.
    """
    try:
        return float(fraction(value) if isinstance(value, str) else value)
    except ValueError as error:
        raise UserError.one("eps", f"{value!r} is not a number or a fraction such as 8/255") from error


def to_mapping(run: Section) -> dict[str, Any]:
    """A run as nested plain values (tuples as lists): what config.yaml holds."""
    return {
        field.name: to_mapping(value) if isinstance(value, Section) else list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(run)
        for value in [getattr(run, field.name)]
    }
