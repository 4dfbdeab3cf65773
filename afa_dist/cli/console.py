"""What a person sees: a progress bar on a terminal, plain lines in a log, tables at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from afa_dist.cli.words import describe_row, duration, out, percent, say
from afa_dist.config.fields import pixels
from afa_dist.data.decode import progress_to
from afa_dist.evaluation.executor import Progress as EvaluationState
from afa_dist.evaluation.summary import accuracy_words
from afa_dist.runtime.placement import is_main_process

LINE_SECONDS = 10.0
"""Without a terminal, at most one line of progress in this time, besides the last."""


class Shown:
    """A bar on a terminal, now and then a line in a log; a context manager."""

    def __init__(self, title: str, total: float | None, counts: ProgressColumn, *columns: ProgressColumn) -> None:
        """counts: the column that says how much is done; columns: what stands before the note, after the time taken."""
        self.title = title
        self._terminal = out.is_terminal
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            counts,
            TimeElapsedColumn(),
            *columns,
            TextColumn("{task.fields[note]}"),
            console=out,
            disable=not self._terminal,
        )
        self._task = self._bar.add_task(title, total=total, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    @property
    def _due(self) -> bool:
        """Whether it is time for a line, where there is no bar."""
        return not self._terminal and time.monotonic() - self._last_line >= LINE_SECONDS

    def _line(self, text: str) -> None:
        say(f"{self.title}: {text}")
        self._last_line = time.monotonic()


class StageProgress(Shown):
    """Progress of one stage: use as a context manager, feed with `on_row` (training) or `on_part`."""

    def __init__(self, title: str, unit: str = "step", total: int | None = None) -> None:
        super().__init__(title, total, MofNCompleteColumn(), TimeRemainingColumn())
        self.unit = unit
        self._validation = ""
        self._eps: float | None = None
        self._begun: tuple[int, float] | None = None

    def on_row(self, row: Mapping[str, Any]) -> None:
        """Show a row of metrics.jsonl."""
        if row["phase"] == "validation":
            self._validation = "held-out: " + describe_row(row)
        note = self._validation or describe_row(row)
        warming = self._eps is not None and row.get("eps", self._eps) != self._eps
        self._eps = row.get("eps", self._eps)
        left = self._time_left(row["step"], row["of"])
        self._bar.update(self._task, completed=row["step"], total=row["of"], note=note)
        if self._due or (not self._terminal and row["step"] == row["of"]):
            eps = f"  eps {pixels(row['eps'])}" if warming and "eps" in row else ""
            place = f"step {row['step']}/{row['of']} (epoch {row['epoch']:.3g}{left})"
            self._line(f"{place}  {row['phase']}: {describe_row(row)}{eps}")

    def on_part(self, done: int, parts: int) -> None:
        """Show that `done` of `parts` are finished."""
        self._bar.update(self._task, completed=done, total=parts)
        left = self._time_left(done, parts)
        if not self._terminal and done:
            self._line(f"{self.unit} {done}/{parts}{left}")

    def note(self, text: str) -> None:
        """Show `text` beside the bar, on a terminal."""
        self._bar.update(self._task, note=text)

    def _time_left(self, done: int, total: int) -> str:
        """ ", about 3 min left", by the speed since the first call; empty before there is one, and at the end."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = (done, now)
        first, began = self._begun
        if not first < done < total:
            return ""
        return f", about {duration((now - began) / (done - first) * (total - done))} left"


class EvaluationProgress(Shown):
    """Progress of an evaluation, by the time that it takes: use as a context manager, feed with `show`."""

    def __init__(self, title: str) -> None:
        super().__init__(title, 1.0, TaskProgressColumn())

    def show(self, progress: EvaluationState) -> None:
        left = f", about {duration(progress.seconds_left)} left" if progress.seconds_left else ""
        self._bar.update(self._task, completed=progress.done, note=f"{progress.what}{left}")
        if self._due:
            self._line(f"{100 * progress.done:.0f} %, {progress.what}{left}")

    def counting(self, unit: str, total: int) -> Callable[[int], None]:
        """What hears how many more of `total` are done, and shows it with the time that is left."""
        done, began = 0, time.monotonic()

        def tick(more: int) -> None:
            nonlocal done
            done += more
            left = (time.monotonic() - began) / done * (total - done) if done else None
            self.show(EvaluationState(f"{done} of {total} {unit}", done / max(1, total), left))

        return tick


@contextlib.contextmanager
def reading_shown() -> Iterator[None]:
    """Inside, say how many images have been decoded, at most every `LINE_SECONDS`; small data sets are never mentioned."""
    last_line = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= LINE_SECONDS and done < total and is_main_process():
            say(f"reading images: {done}/{total}")
            last_line = time.monotonic()

    with progress_to(show):
        yield


def training_table(summary: Mapping[str, Any]) -> Table:
    """Best and last validation of a stage."""
    names = [name for name in ("clean_acc", "robust_acc", "loss") if name in (summary["best"] or summary["last"])]
    table = Table("held-out images", "step", *[name.removesuffix("_acc") for name in names])
    for which in ("best", "last"):
        values = summary[which]
        if values:
            table.add_row(which, str(values["step"]), *[_measured(name, values.get(name)) for name in names])
    return table


def _measured(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return percent(value) if name.endswith("_acc") else f"{value:.4f}"


def accuracy_table(models: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """Accuracies of evaluated models side by side in per cent, each with its 95 % interval."""
    names = ["clean", *next(iter(models.values()))["attacks"]]
    if len(names) <= WIDEST:
        table = Table("model", *names, title=title, title_justify="left")
        for model, summary in models.items():
            table.add_row(model, *(accuracy_words(summary["accuracies"][name]) for name in names))
        return table
    table = Table("under it and all above", *models, title=title, title_justify="left")
    for name in names:
        table.add_row(name, *(accuracy_words(summary["accuracies"][name]) for summary in models.values()))
    table.add_section()
    table.add_row("= all of them", *(summary["label"] for summary in models.values()))
    return table


WIDEST = 4
"""Accuracies that are put side by side; more are put below each other."""
