"""The job behind jobs/report.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from afa_dist.address import is_address
from afa_dist.cli.arguments import parse
from afa_dist.cli.job import resolve_alone, run_job
from afa_dist.cli.words import say
from afa_dist.config.fields import pixels
from afa_dist.config.report import ReportRun
from afa_dist.report.report import write_report
from afa_dist.report.sources import Entry, collect
from afa_dist.training.run_dir import RunDirectory


def main(program: str, description: str) -> int:
    """Write a report from the command line; returns the exit code."""
    return run_job(
        resolve_alone(ReportRun),
        parse(ReportRun, with_flag(sys.argv[1:]), program=program, description=description),
        check=lambda run: collect(list(run.runs)),
        check_partly=lambda values: None,
        dry_run=describe,
        execute=execute,
    )


def with_flag(argv: Sequence[str]) -> list[str]:
    """Run directories in front of the options become the value of --runs."""
    count = next((number for number, word in enumerate(argv) if word.startswith("-")), len(argv))
    return [*(["--runs", ",".join(argv[:count])] if count else []), *argv[count:]]


def describe(run: ReportRun, entries: list[Entry]) -> None:
    """Say what the page would show."""
    for entry in entries:
        parts = [stage.title for stage in entry.stages]
        parts += [name for name, part in (("evaluation", entry.evaluation), ("analysis", entry.analysis)) if part]
        say(f"{entry.title}: {', '.join(parts) or 'nothing'}")
    say(f"page: {page_of(run)}")


def execute(run: ReportRun, entries: list[Entry]) -> None:
    """Write the page."""
    path = page_of(run)
    write_report(entries, path, run.title or ", ".join(dict.fromkeys(entry.title for entry in entries)))
    for entry in entries:
        if entry.evaluation is None:
            say(f"{entry.title}: not measured yet; python jobs/evaluate.py --model {entry.title}")
        elif entry.analysis is None:
            command = f"python jobs/analyse.py --model {entry.evaluation.summary['model']}"
            command += f" --threat.norm {entry.evaluation.norm} --threat.eps {pixels(entry.evaluation.eps)}"
            say(f"{entry.title}: not analysed yet; {command} adds features, smoothness, corruptions and saliency")
    say(f"report: {path}")


def page_of(run: ReportRun) -> Path:
    """Where the page goes."""
    if run.out:
        return Path(run.out).expanduser()
    alone = len(run.runs) == 1 and not is_address(run.runs[0])
    return (RunDirectory.at(run.runs[0]).path if alone else Path.cwd()) / "report.html"
