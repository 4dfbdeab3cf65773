"""What a report shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from afa_dist.config.fields import Section, setting
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class ReportRun(Section):
    """A page about one model, or about several side by side (jobs/report.py)."""

    runs: tuple[str, ...] = setting(
        (), "run directories of evaluations, analyses, fine-tuning runs or pipelines; may be given without --runs"
    )
    out: str = setting("", "the page to write; report.html in the run directory of one run, in this folder of several")
    title: str = setting("", "title of the page; the runs' names if empty")

    def problems(self) -> Iterator[Problem]:
        if not self.runs:
            yield Problem("runs", "missing; name one or more run directories, such as runs/digits")
        if self.out and not self.out.endswith((".html", ".htm")):
            yield Problem("out", f"{self.out} is not the name of a page; let it end in .html")
