"""The job behind jobs/ablation.py: a grid of pipelines, then a record, a table and a plot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml
from rich.table import Column, Table

from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments, parse
from afa_dist.cli.console import StageProgress
from afa_dist.cli.grid import Cell, Grid, check_cells, grid_of
from afa_dist.cli.grid_record import plan_of, record_of, record_problems
from afa_dist.cli.job import raise_any, run_job
from afa_dist.cli.specification import build
from afa_dist.cli.words import say
from afa_dist.config import AblationConfig, AblationRun, PipelineRun
from afa_dist.config.budget import total_passes
from afa_dist.config.fields import to_mapping
from afa_dist.errors import TrainingError, UserError
from afa_dist.files import write_text
from afa_dist.report.ablation import markdown, write_report
from afa_dist.runtime.placement import cores
from afa_dist.training.run_dir import RunDirectory

POLL_SECONDS = 0.5


def main(program: str, description: str) -> int:
    """Run a grid from the command line; returns the exit code."""
    arguments = parse(AblationRun, sys.argv[1:], program=program, description=description)
    return run_job(
        resolve,
        arguments,
        check=lambda config: check(config, arguments),
        check_partly=lambda values: check(build(AblationConfig, values), arguments),
        dry_run=describe,
        execute=execute,
        shown=lambda config: resolved(config, arguments),
    )


def resolve(arguments: Arguments) -> tuple[type[AblationConfig], dict[str, Any]]:
    """The grid's own options; those of its runs are read with the variants."""
    section = _recipe(arguments).get("ablation") or {}
    if not isinstance(section, dict):
        raise UserError.one("ablation", f"is a section with options of its own, not {section!r}")
    own = {key: value for key, value in section.items() if key not in ("variants", "grid")}
    values = recipes.merge(own, recipes.nest(arguments.overrides).get("ablation", {}))
    try:
        build(AblationConfig, values)
    except UserError as error:
        raise UserError(problem.under("ablation") for problem in error.problems) from error
    return AblationConfig, values


def _recipe(arguments: Arguments) -> dict[str, Any]:
    return recipes.read_recipe(arguments.config, grid=True) if arguments.config else {}


def resolved(config: AblationConfig, arguments: Arguments) -> dict[str, Any]:
    """The grid's options, and those of each variant's pipeline with its first seed."""
    runs: dict[str, Any] = {}
    for cell in _grid(config, arguments).cells:
        runs.setdefault(cell.variant, to_mapping(cell.run))
    return {"ablation": to_mapping(config), "variants": runs}


def check(config: AblationConfig, arguments: Arguments) -> Grid:
    """The grid, all its runs checked against data and directories.

    Raises:
        UserError: all mistakes of all variants.
    """
    grid = _grid(config, arguments)
    planned = [cell for cell in grid.cells if cell.finished or cell in grid.wanted]
    raise_any([*check_cells(grid.cells), *record_problems(plan_of(grid.name, planned, config), config)])
    return grid


def _grid(config: AblationConfig, arguments: Arguments) -> Grid:
    overrides = recipes.nest(arguments.overrides)
    overrides.pop("ablation", None)
    if config.parallel > 1:
        # Runs at once share the cores, unless told otherwise.
        scaling = {"threads": max(1, cores() // config.parallel), "workers": 0, **overrides.get("scaling", {})}
        overrides = recipes.merge(overrides, {"scaling": scaling})
    return grid_of(_recipe(arguments), overrides, config)


def describe(config: AblationConfig, grid: Grid) -> None:
    """Say what would run, and what each run costs."""
    cells = grid.wanted
    table = Table("model", "seeds", "pre-training epochs", "epochs", "forward passes an image", "finished")
    table.columns.insert(0, Column("variant", overflow="fold"))  # whole: they are what `only` takes
    for variant in dict.fromkeys(cell.variant for cell in cells):
        own = [cell for cell in cells if cell.variant == variant]
        run = own[0].run
        seeds = ", ".join(str(cell.seed) for cell in own)
        epochs = str(run.pretrain.schedule.epochs) if run.pretrain else "-"
        done = f"{sum(cell.finished for cell in own)} of {len(own)}"
        table.add_row(variant, own[0].title, seeds, epochs, str(run.finetune.schedule.epochs), str(cost(run)), done)
    say(table)
    for cell in {cell.variant: cell for cell in cells}.values():
        if config.budget and abs(cost(cell.run) / config.budget - 1) > 0.05:
            say(f"{cell.variant}: epochs are whole, so it costs {cost(cell.run)} passes instead of {config.budget}")
    say(f"{len(cells)} runs, {config.parallel} at once; results under {config.results_dir}")


def execute(config: AblationConfig, grid: Grid) -> None:
    """Run what is wanted and not finished, then show and write what there is of the whole grid.

    Raises:
        TrainingError: some runs failed; the record holds the others.
        UserError: the record would take the place of one that has more.
    """
    describe(config, grid)
    cells = grid.wanted
    waiting = [cell for cell in cells if not cell.finished]
    failed, problems = [], []
    if waiting:
        with StageProgress("grid", unit="run", total=len(cells)) as progress:
            failed = run_all(waiting, config.parallel, len(cells), progress)
    finished = [cell for cell in grid.cells if cell.finished]
    if finished:
        missing = [f"{cell.variant}/seed{cell.seed}" for cell in grid.cells if not cell.finished]
        record = record_of(grid.name, finished, config, missing)
        say(markdown(record))
        problems = [*record_problems(record, config)]
        if not problems:
            _write(record, Path(config.results_dir))
    if failed:
        lines = "; ".join(f"{cell.variant} with seed {cell.seed} ({reason})" for cell, reason in failed)
        raise TrainingError(f"{len(failed)} of {len(cells)} runs failed: {lines}. The same command tries them again")
    raise_any(problems)


def _write(record: dict[str, Any], folder: Path) -> None:
    paths = write_report(record, folder)
    say(f"written: {', '.join(str(path) for path in paths)}")
    if not any(path.suffix == ".png" for path in paths):
        say("no plot: matplotlib is not installed (the extra `plots`)")


def cost(run: PipelineRun) -> int:
    """Forward passes an image over all stages that lead to the model."""
    return total_passes(run.finetune) + (total_passes(run.pretrain) if run.pretrain else 0)


def run_all(waiting: Sequence[Cell], parallel: int, total: int, progress: StageProgress) -> list[tuple[Cell, str]]:
    """Run `waiting`, so many at once, each in a process of its own; returns those that failed, with the reason."""
    queue, running = deque(waiting), dict[Cell, _Process]()
    failed: list[tuple[Cell, str]] = []
    done = total - len(waiting)
    progress.on_part(done, total)
    # Whoever stops the grid means its runs too; without this a `kill` would leave them behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while queue or running:
            while queue and len(running) < parallel:
                cell = queue.popleft()
                running[cell] = _Process(cell)
                say(f"{cell.title}, seed {cell.seed}: started; its log is {cell.folder / 'log.txt'}")
            time.sleep(POLL_SECONDS)
            for cell, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[cell]
                done += 1
                if code != 0:
                    failed.append((cell, process.reason(code)))
                say(f"{cell.title}, seed {cell.seed}: {'done' if code == 0 else 'FAILED'} in {process.seconds:.0f} s")
                progress.on_part(done, total)
            progress.note(", ".join(f"{cell.variant}/{cell.seed} {_latest(cell)}" for cell in running))
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in running.values():
            process.stop()
    return failed


class _Process:
    """One pipeline in a process of its own; what it prints goes to log.txt in its run directory."""

    def __init__(self, cell: Cell) -> None:
        self.folder = cell.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = self.folder / "recipe.yaml"
        write_text(recipe, yaml.safe_dump(to_mapping(cell.run), sort_keys=False))
        self.log: TextIO = (self.folder / "log.txt").open("a")
        self.started = time.monotonic()
        threads = str(cell.run.scaling.threads or cores())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "afa_dist.cli.pipeline", "--config", str(recipe)],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def poll(self) -> int | None:
        code = self.process.poll()
        if code is not None:
            self.log.close()
        return code

    def reason(self, code: int) -> str:
        lines = [line.strip() for line in (self.folder / "log.txt").read_text().splitlines() if line.strip()]
        return f"exit code {code}, {self.folder / 'log.txt'}: {lines[-1] if lines else 'nothing printed'}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()


def _latest(cell: Cell) -> str:
    """How far a running pipeline is."""
    stages = [stage for stage in ("evaluate", "finetune", "pretrain") if (cell.folder / stage).is_dir()]
    if not stages:
        return "starting"
    rows = RunDirectory(cell.folder / stages[0]).metrics()
    return stages[0] if not rows else f"{stages[0]} {rows[-1]['step']}/{rows[-1]['of']}"
