"""Searches of jobs/tune.py on digits: what TPE finds against chance, what pruning saves, what a trial costs beside its
training, and what is left of a search whose driver is killed.

    python benchmarks/tune.py                    # more than half an hour on 2 idle cores
    python benchmarks/tune.py --seeds 0 --trials 12

Each search is the real command in a process of its own: joint AFA + TRADES on scikit-learn's digits (tune_spaces/joint.py),
short trials, as many at once as there are cores. For each seed: TPE with pruning, TPE without, random without. Prints a
table and writes results/tune.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import ROOT, write_record
from rich.table import Table

from afa_dist.cli.words import say
from afa_dist.config import DataConfig
from afa_dist.data.catalogue import load_splits
from afa_dist.tuning.front import hypervolume
from afa_dist.tuning.record import FAILED, FINISHED, PRUNED, Trial, TrialStore, finished, point_of

OPTIONS = ["--model.width", "8", "--schedule.epochs", "12", "--tracking.tensorboard", "false", "--final-attacks", "pgd-20"]

AT_ONCE = 2
OPTIONS += ["--at-once", str(AT_ONCE)]

SEARCHES = {
    "tpe, pruning": ["--search", "tpe"],
    "tpe": ["--search", "tpe", "--pruning.rule", "none"],
    "random": ["--search", "random", "--pruning.rule", "none"],
}


def command_of(folder: Path, name: str, trials: int, *more: str) -> list[str]:
    command = [sys.executable, str(ROOT / "jobs/tune.py"), "--config", str(ROOT / "recipes/digits-joint.yaml")]
    command += ["--space", str(ROOT / "tune_spaces/joint.py"), "--runs_dir", str(folder), "--name", name]
    return [*command, "--max-trials", str(trials), *OPTIONS, *more]


def search(folder: Path, name: str, trials: int, *more: str) -> dict[str, Any]:
    """One search to its end: its trials, in figures."""
    began = time.perf_counter()
    subprocess.run(command_of(folder, name, trials, *more), check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    return {"whole_seconds": round(seconds, 1), **figures_of(folder / name)}


def figures_of(directory: Path) -> dict[str, Any]:
    trials = TrialStore(directory / "trials").load()
    done = finished(trials)
    points = [point_of(trial) for trial in done]
    course = [[trial.ended_at, hypervolume(points[: place + 1])] for place, trial in enumerate(done)]
    return {
        "states": {state: sum(trial.state == state for trial in trials) for state in (FINISHED, PRUNED, FAILED)},
        "hypervolume": course[-1][1],
        "test_hypervolume": hypervolume(test_points(directory)),
        "course": course,
        "search_seconds": max(trial.ended_at for trial in trials),
        "training_seconds": round(sum(trial.seconds for trial in trials), 1),
        "overheads": [round(trial.wall - trial.seconds, 2) for trial in trials if trial.state in (FINISHED, PRUNED)],
        "trial_seconds": [trial.seconds for trial in done],
    }


def test_points(directory: Path) -> list[tuple[float, float]]:
    """Accuracies of the front on test images."""
    points = []
    for path in sorted(directory.glob("measured/*/*/evaluation/summary.json")):
        found = json.loads(path.read_text())["accuracies"]
        points.append((found["clean"]["accuracy"], found["pgd-20"]["accuracy"]))
    return points


def seconds_to(found: dict[str, Any], area: float) -> float | None:
    """When the hypervolume had grown to `area`."""
    return next((at for at, reached in found["course"] if reached >= area - 1e-12), None)


def killed(folder: Path, trials: int) -> dict[str, Any]:
    """A search whose driver is killed three times, then left alone; and one that is not killed."""
    more = ["--pruning.rule", "none", "--final", "none"]
    kept: dict[int, str] = {}
    for wanted in (trials // 4, trials // 2, 3 * trials // 4):
        driver = subprocess.Popen(command_of(folder, "killed", trials, *more), stdout=subprocess.DEVNULL)
        while len(finished(_load(folder / "killed"))) < wanted and driver.poll() is None:
            time.sleep(0.1)
        driver.kill()
        driver.wait()
        kept |= {trial.number: repr(trial) for trial in finished(_load(folder / "killed"))}
    subprocess.run(command_of(folder, "killed", trials, *more), check=True, capture_output=True)
    left = {trial.number: repr(trial) for trial in finished(_load(folder / "killed"))}
    again = sum(trial.begun > 1 for trial in _load(folder / "killed"))
    return {
        "kills": 3,
        "finished": len(left),
        "finished_before_a_kill": len(kept),
        "of_them_changed_or_run_again": sum(left[number] != trial for number, trial in kept.items()),
        "continued": again,
    }


def _load(directory: Path) -> list[Trial]:
    store = TrialStore(directory / "trials")
    return store.load() if store.path.is_dir() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--kill-trials", type=int, default=12)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in SEARCHES}
        for seed, (name, more) in itertools.product(seeds, SEARCHES.items()):
            place = f"{name.replace(', ', '-')}-{seed}"
            found[name].append(search(Path(folder), place, options.trials, "--seed", str(seed), *more))
            say(f"{name}, seed {seed}: {shown(found[name][-1])}")
        kills = killed(Path(folder), options.kill_trials)
    record = {"trials": options.trials, "seeds": seeds, "options": OPTIONS, "searches": found, "kills": kills}
    record["comparison"] = compared(found)
    show(record)
    write_record(record, options.results, "tune", load_splits(DataConfig()).fingerprint())
    return 0


def shown(found: dict[str, Any]) -> str:
    keys = ("hypervolume", "test_hypervolume", "search_seconds", "training_seconds", "states")
    return ", ".join(f"{key} {found[key]:.4g}" if isinstance(found[key], float) else f"{key} {found[key]}" for key in keys)


def compared(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Seed by seed: areas against chance; time until both reached what both reached, with pruning and without."""
    pruned, whole, random = found["tpe, pruning"], found["tpe"], found["random"]
    saved = []
    for with_it, without in zip(pruned, whole, strict=True):
        area = min(with_it["hypervolume"], without["hypervolume"])
        times = [seconds_to(with_it, area), seconds_to(without, area)]
        saved.append({"hypervolume": area, "seconds_with": times[0], "seconds_without": times[1]})
    runs = [run for searched in found.values() for run in searched]
    overheads = [value for run in runs for value in run["overheads"]]
    # With all that comes between two trials of a process, and the start of the first one.
    beside = [(AT_ONCE * run["search_seconds"] - run["training_seconds"]) / sum(run["states"].values()) for run in runs]
    return {
        "pruned_minus_random": [round(a["hypervolume"] - b["hypervolume"], 4) for a, b in zip(pruned, random, strict=True)],
        "tpe_minus_random": [round(a["hypervolume"] - b["hypervolume"], 4) for a, b in zip(whole, random, strict=True)],
        "at_equal_hypervolume": saved,
        "whole_search_seconds": [[a["search_seconds"], b["search_seconds"]] for a, b in zip(pruned, whole, strict=True)],
        "overhead": {
            "n": len(overheads),
            "share_of_a_minute": round(statistics.median(overheads) / (60 + statistics.median(overheads)), 4),
            "median": round(statistics.median(overheads), 2),
            "max": max(overheads),
            "p90": round(statistics.quantiles(overheads, n=10)[-1], 2),
            "between_and_in_trials": [round(value, 2) for value in beside],
        },
    }


def show(record: dict[str, Any]) -> None:
    table = Table(
        "search", "seed", "hypervolume", "on test images", "search, s", "training, s", "finished", "pruned", "failed"
    )
    for name, runs in record["searches"].items():
        for seed, run in zip(record["seeds"], runs, strict=True):
            cells = [f"{run['hypervolume']:.4f}", f"{run['test_hypervolume']:.4f}", f"{run['search_seconds']:.0f}"]
            states = [str(run["states"][state]) for state in (FINISHED, PRUNED, FAILED)]
            table.add_row(name, str(seed), *cells, f"{run['training_seconds']:.0f}", *states)
    say(table)
    for key, value in {**record["comparison"], "kills": record["kills"]}.items():
        say(f"{key}: {value}")


if __name__ == "__main__":
    sys.exit(main())
