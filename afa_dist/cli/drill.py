"""The job behind jobs/drill.py: small runs are killed in many ways; all must end as if nothing had been."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from afa_dist.address import below, is_address, runs_root
from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments
from afa_dist.cli.console import StageProgress
from afa_dist.cli.drill_attempt import Site
from afa_dist.cli.drill_round import Blow, run_once, run_struck
from afa_dist.cli.job import parse_arguments, run_job
from afa_dist.cli.words import counted, say
from afa_dist.config.drill import DrillRun
from afa_dist.errors import TrainingError, UserError
from afa_dist.files import sha256, write_json
from afa_dist.training.mirror import UNANSWERED, Mirror, words
from afa_dist.training.provenance import provenance
from afa_dist.training.run_dir import RunDirectory


def main(program: str, description: str) -> int:
    """Run a drill from the command line; returns the exit code, 1 if anything was lost."""
    return run_job(
        resolve,
        parse_arguments(DrillRun, program, description),
        check=check,
        check_partly=lambda values: None,
        dry_run=lambda run, folder: say(f"{counted(run.rounds, 'round')} of {', '.join(run.ways)} in {folder}"),
        execute=execute,
    )


def resolve(arguments: Arguments) -> tuple[type[DrillRun], dict[str, Any]]:
    recipe = recipes.read_recipe(arguments.config) if arguments.config else {}
    return DrillRun, recipes.merge(recipe, recipes.nest(arguments.overrides))


def check(run: DrillRun) -> Path:
    """The folder of the drill, which must be new."""
    if is_address(run.runs_dir):
        raise UserError.one("runs_dir", f"{run.runs_dir} is no folder; a drill is of this machine and its disks")
    folder = runs_root(run.runs_dir) / run.name
    if folder.exists():
        raise UserError.one("name", f"{folder} exists; a drill starts from nothing: choose another name")
    if run.store is not None:
        _check_store(run, run.store)
    return folder


def _check_store(run: DrillRun, store: str) -> None:
    """The place of the drill in the object store must be new as well.

    Raises:
        UserError: it is not, or it does not answer.
    """
    try:
        mirror = Mirror(below(store, run.name))
        empty = mirror.is_empty()
    except UNANSWERED as error:
        raise UserError.one("store", f"{store} cannot be used: {words(error)}") from error
    if not empty:
        raise UserError.one("name", f"{mirror.place} exists; a drill starts from nothing: choose another name")


@dataclasses.dataclass(frozen=True)
class Round:
    """What happened to one run, and whether it ended like the undisturbed one."""

    way: str
    blows: list[Blow]
    same_weights: bool
    same_history: bool
    seconds: float

    @property
    def survived(self) -> bool:
        return self.same_weights and self.same_history


def execute(run: DrillRun, folder: Path) -> None:
    """Run all rounds, show and write what came out.

    Raises:
        TrainingError: something was lost.
    """
    rng = random.Random(run.seed)  # noqa: S311 - the same drill again for the same seed
    say(f"drill: {counted(run.rounds, 'round')} of {', '.join(run.ways)}; in {folder}")
    wanted = {}
    rounds: list[Round] = []
    with StageProgress("drill", unit="round", total=run.rounds) as progress:
        for way in dict.fromkeys(run.ways):
            progress.note(f"{way}: undisturbed")
            site = site_of(run, way, folder / way)
            run_once(site)
            wanted[way] = outcome(site.directory)
        for number in range(run.rounds):
            way = run.ways[number % len(run.ways)]
            site = site_of(run, way, folder / f"round-{number:03d}")
            progress.note(f"{way}: struck")
            started = time.monotonic()
            blows = run_struck(site, run.blows, rng)
            weights, history = outcome(site.directory)
            same = weights == wanted[way][0], history == wanted[way][1]
            rounds.append(Round(way, blows, *same, round(time.monotonic() - started, 1)))
            if rounds[-1].survived:
                shutil.rmtree(site.folder)
            progress.on_part(number + 1, run.rounds)
    say(table_of(rounds))
    record = {"settings": dataclasses.asdict(run), "rounds": [dataclasses.asdict(entry) for entry in rounds]}
    write_json(folder / "drill.json", {**record, **provenance(run.seed, "digits")})
    say(f"record: {folder / 'drill.json'}")
    if run.store is not None and all(entry.survived for entry in rounds):
        Mirror(below(run.store, run.name)).remove()
    lost = [number for number, entry in enumerate(rounds) if not entry.survived]
    if lost:
        raise TrainingError(f"rounds {', '.join(map(str, lost))} ended otherwise; they are kept in {folder}")
    struck = sum(len(entry.blows) for entry in rounds)
    say(f"nothing was lost: {counted(len(rounds), 'run')} struck {struck} times ended bit for bit as undisturbed ones")


def site_of(run: DrillRun, way: str, folder: Path) -> Site:
    """Where the run with that folder takes place."""
    address = below(run.store, run.name, folder.name) if run.store is not None and way == "store" else ""
    return Site(way, folder, address, run.job)


def outcome(directory: RunDirectory) -> tuple[str, list[dict[str, Any]]]:
    """Hash of the final checkpoint's weights and averages, and the rows of metrics."""
    steps = directory.checkpoints.steps()
    if not steps:
        return "none", []
    last = directory.checkpoints.path(steps[-1])
    hashes = {name: sha256(last / f"{name}.safetensors") for name in ("model", "optimiser", "averaged")}
    best = (directory.read_json("summary.json") or {}).get("best")
    return json.dumps([steps[-1], hashes, best]), directory.metrics()


def table_of(rounds: list[Round]) -> Table:
    table = Table("round", "where", "struck at step (steps repeated)", "weights", "history", "seconds")
    for number, entry in enumerate(rounds):
        blows = "; ".join(f"{blow.what} at {blow.step} ({blow.repeated})" for blow in entry.blows)
        same = ["same" if ok else "DIFFER" for ok in (entry.same_weights, entry.same_history)]
        table.add_row(str(number), entry.way, blows or "it was too fast", *same, f"{entry.seconds:.0f}")
    return table
