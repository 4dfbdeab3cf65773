"""The job behind jobs/tune.py: trials of a recipe with sampled options, their front, and what it is worth."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.table import Table

from afa_dist.cli.arguments import parse
from afa_dist.cli.job import raise_any, run_job, where_of
from afa_dist.cli.pipeline import stages_of
from afa_dist.cli.search_checks import RECORD, Prepared, check, directory_problems, resolve, run_of, trials_of
from afa_dist.cli.search_result import conclude
from afa_dist.cli.search_shown import SearchProgress, describe_trial
from afa_dist.cli.words import counted, say
from afa_dist.config import BaseRun, RobustRun, ScalingConfig
from afa_dist.config.fields import pixels, to_mapping
from afa_dist.config.tune import TuneConfig, TuneRun
from afa_dist.runtime.cluster import alive_nodes, session
from afa_dist.runtime.placement import addressed_cluster
from afa_dist.runtime.trial_room import trial_room
from afa_dist.training.provenance import provenance
from afa_dist.training.run_dir import OTHERS_SECONDS, RunDirectory
from afa_dist.tuning.parameters import as_record
from afa_dist.tuning.population import Population
from afa_dist.tuning.record import RUNNING, Trial, TrialStore
from afa_dist.tuning.search import OVER_BUDGET, Search


def main(program: str, description: str) -> int:
    """Search from the command line; returns the exit code."""
    arguments = parse(TuneRun, sys.argv[1:], program=program, description=description)
    return run_job(
        resolve,
        arguments,
        check=lambda config: check(config, arguments),
        check_partly=lambda values: None,
        dry_run=describe,
        execute=execute,
        shown=lambda config: to_mapping(run_of(config, trials_of(config, arguments))),
    )


def describe(config: TuneConfig, prepared: Prepared) -> None:
    """Say what would be searched, and what is the same for all trials."""
    trials, run = prepared.trials, prepared.run
    table = Table("searched", "values")
    for key, parameter in prepared.space.items():
        table.add_row(key, parameter.words())
    say(table)
    threat = trials.base.evaluate.threat
    splits = prepared.splits
    say(f"threat model, fixed: {threat.norm}, eps {pixels(threat.eps)}; it measures every trial, whatever that trains with")
    finetune = trials.base.finetune
    images = f"{len(splits.held_out)} held-out images of {finetune.data.name}"
    say(f"measured on: {images}, PGD-{finetune.validation.steps}; no test image")
    lengths = ", ".join(
        f"{stage} {counted(t.schedule.epochs, 'epoch')}" for stage, t in stages_of(trials.run({}, "new")).items()
    )
    say(f"a trial: {lengths}")
    if config.search == "pbt":
        members = config.population
        say(
            f"search: pbt, {members.size} members; every {counted(members.interval, 'epoch')} the worst go on from the best"
        )
    else:
        say(f"search: {config.search}, {counted(config.max_trials, 'trial')}; ends trials early {trials.rungs.describe()}")
    cluster = addressed_cluster()
    say(f"runs on {f'the cluster at {cluster}' if cluster else 'Ray on this machine'}")
    say(f"directory: {where_of(run)}")


def _of_session(run: BaseRun, config: TuneConfig) -> ScalingConfig:
    """What a session is asked for: Ray, with the cores that there are; how many trials fit is seen then. A cluster that
    starts machines is asked for those of the trials at once.
    """
    scaling = run.scaling
    if scaling.autoscale:
        return dataclasses.replace(scaling, workers=max(1, config.at_once) * max(1, scaling.fewest))
    return dataclasses.replace(scaling, workers=1, threads=1)


def execute(config: TuneConfig, prepared: Prepared) -> None:
    """Search, or go on with a search, then measure its front and write the results."""
    describe(config, prepared)
    run = prepared.run
    directory = RunDirectory.of(run)
    with directory.locked(OTHERS_SECONDS), session(_of_session(run, config)) as placement:
        raise_any(directory_problems(run, prepared.space, prepared.splits))  # nobody else writes now
        room = trial_room(run.scaling, alive_nodes(), placement.cluster, config)
        say(f"room for {room.describe()}")
        directory.create(run, provenance(run.seed, prepared.splits.fingerprint()))
        search = search_of(prepared, directory)
        _write_record(prepared, search, directory)
        if search.trials:
            going = sum(trial.state == RUNNING for trial in search.trials)
            say(f"continues: {len(search.trials) - going} trials have ended, {going} go on")
        from afa_dist.runtime.tune import run_search  # imports Ray, after the session's settings

        def stages(trial: Trial) -> tuple[Mapping[str, RobustRun], Mapping[str, tuple[float, float]]]:
            made = prepared.trials.run(trial.params, trial.name)
            return stages_of(made), prepared.trials.offsets(made)

        with SearchProgress(search) as progress:
            search.on_change = partial(_on_change, prepared, search, directory)
            try:
                run_search(search, stages, prepared.splits, room, progress.look)
            finally:
                _write_record(prepared, search, directory)
        if search.stopping == OVER_BUDGET:
            left = sum(trial.state == RUNNING for trial in search.trials)
            say(
                f"budget_hours {config.budget_hours:g} is used up; {left} trials are not finished, more hours continue them"
            )
        conclude(prepared.run, prepared.trials, search, directory, room, len(prepared.splits.held_out))


def _on_change(prepared: Prepared, search: Search, directory: RunDirectory, trial: Trial) -> None:
    say(describe_trial(trial, prepared.space))
    _write_record(prepared, search, directory)


def _write_record(prepared: Prepared, search: Search, directory: RunDirectory) -> None:
    directory.write_json(RECORD, {"space": as_record(prepared.space), "seconds": round(search.seconds, 1)})


def search_of(prepared: Prepared, directory: RunDirectory) -> Search:
    """The search in a directory, wherever it stands."""
    config, recorded = prepared.trials.config, directory.read_json(RECORD) or {}
    facts: dict[str, Any] = {
        "config": config,
        "space": prepared.space,
        "store": TrialStore(directory.path / "trials"),
        "rungs": prepared.trials.rungs,
        "seed": prepared.run.seed,
        "refusal": prepared.trials.refusal,
        "seconds_before": float(recorded.get("seconds", 0.0)),
    }
    if config.search == "pbt":
        return Population(**facts, epochs=prepared.trials.epochs)
    return Search(**facts)
