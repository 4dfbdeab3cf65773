"""What a page consists of: sections of tables, charts and pictures. Texts are escaped by the template."""

from __future__ import annotations

import dataclasses
from typing import Any

from afa_dist.evaluation.summary import accuracy_words


@dataclasses.dataclass(frozen=True)
class Cell:
    """text: what is shown. value: what its column is sorted by, None for what goes last. head: names its row."""

    text: str
    value: float | str | None = None
    head: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that can be sorted by any column."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with words below it. alt: what is to be seen, for whoever cannot see it."""

    source: str
    alt: str
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Strip:
    """Pictures that belong together, and what they show."""

    title: str
    pictures: list[Picture]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart. data: what Plotly takes. words: what it shows. sheets: pictures for the pointer (see `charts.embedding`)."""

    title: str
    words: str
    data: dict[str, Any]
    sheets: list[str] = dataclasses.field(default_factory=list)
    tile: tuple[int, int] = (0, 0)
    """Height and width of one picture on a sheet."""

    @property
    def maps(self) -> list[str]:
        """Names of the maps that the chart can be switched between."""
        return list(self.data["data"][0].get("meta", {}).get("maps", {}))


@dataclasses.dataclass
class Section:
    """A part of the page; one without content is left out."""

    name: str
    title: str
    words: str = ""
    warnings: list[str] = dataclasses.field(default_factory=list)
    tables: list[Table] = dataclasses.field(default_factory=list)
    figures: list[Figure] = dataclasses.field(default_factory=list)
    strips: list[Strip] = dataclasses.field(default_factory=list)
    details: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Titles and preformatted texts that are folded away."""

    @property
    def empty(self) -> bool:
        return not (self.warnings or self.tables or self.figures or self.strips or self.details)


def accuracy_cell(entry: dict[str, Any] | None) -> Cell:
    """An accuracy with its interval."""
    if entry is None:
        return Cell("-")
    return Cell(accuracy_words(entry), 100 * entry["accuracy"])


def number_cell(value: float | None, scale: float = 1.0) -> Cell:
    """A number times `scale`, with three digits or, as per cent, one decimal."""
    return (
        Cell("-")
        if value is None
        else Cell(f"{scale * value:.3g}" if scale == 1.0 else f"{scale * value:.1f}", scale * value)
    )
