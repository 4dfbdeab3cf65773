"""A finished evaluation, read back from its run directory: what was measured, on which images, under which attacks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from afa_dist.config.attack_names import versions_in
from afa_dist.config.fields import pixels
from afa_dist.errors import Problem, TrainingError, UserError
from afa_dist.evaluation.outcome import CLEAN, Outcome, OutcomeStore, identity_of
from afa_dist.training.mirroring import brought_here
from afa_dist.training.run_dir import RunDirectory

NORMS = {"linf": "L-inf", "l2": "L2"}

TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "svhn": 26_032}
"""Of data sets that everybody compares on."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """place: where it was found. directory: its files. summary: its summary.json. run: its specification. start: its
    provenance."""

    place: str
    directory: RunDirectory
    summary: Mapping[str, Any]
    run: Mapping[str, Any]
    start: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What the lowest accuracy may be called."""
        return str(self.summary["label"])

    @property
    def data(self) -> str:
        return str(self.run["data"]["name"])

    @property
    def part(self) -> str:
        return str(self.run["part"])

    @property
    def images(self) -> int:
        return int(self.summary["accuracies"]["clean"]["images"])

    @property
    def norm(self) -> str:
        return str(self.summary["threat"]["norm"])

    @property
    def eps(self) -> float:
        return float(self.summary["threat"]["eps"])

    @property
    def threat(self) -> str:
        """Such as "L-inf, eps 8/255"."""
        return f"{NORMS[self.norm]}, eps {pixels(self.eps)}"

    @property
    def on_full_test_set(self) -> bool:
        """Whether all test images were looked at."""
        known = TEST_IMAGES.get(self.data, self.images)
        return self.part == "test" and not self.run["data"].get("test_limit") and self.images == known

    @property
    def has_autoattack(self) -> bool:
        """Whether all parts of AutoAttack's standard version were run. In a ball without extent nothing is."""
        return "autoattack" in versions_in(self.summary["attacks"]) and self.eps > 0

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Name and accuracy: clean, each attack in its order, and the versions of AutoAttack that are whole."""
        yield from self.summary["accuracies"].items()

    @functools.cached_property
    def table(self) -> pa.Table:
        """The rows of `per_image.parquet`."""
        return pq.read_table(self.directory.path / "evaluation" / "per_image.parquet")

    def outcomes(self) -> Iterator[Outcome]:
        """All outcomes of attacks, shard by shard.

        Raises:
            DamagedOutcome, ForeignOutcome: one is not what the evaluation left.
        """
        facts = self.directory.read_json("evaluation/identity.json")
        store, size = OutcomeStore(self.directory.path / "evaluation" / "shards", identity_of(facts)), facts["shard_size"]
        names = [CLEAN, *facts["attacks"]] if self.eps > 0 else []
        for start in range(0, self.images, size):
            yield from (o for o in store.in_order(start, min(start + size, self.images), names) if o.name != CLEAN)


_SHAPE: dict[str, type] = {
    **dict.fromkeys(("accuracies", "threat", "versions"), dict),
    **dict.fromkeys(("label", "model_sha256", "data_fingerprint"), str),
    **dict.fromkeys(("warnings", "attacks"), list),
    **dict.fromkeys(("seed", "shard_size", "batch_size"), int),
}
"""What every summary.json has."""


def read_evaluation(place: str) -> Evaluation:
    """The evaluation in the run directory `place`, a folder or an address.

    Raises:
        UserError: there is none, it is not finished, or it is of another version.
    """
    try:
        directory = brought_here(place, checkpoints=False)
    except TrainingError as error:
        raise UserError.one("evaluations", str(error)) from error
    return evaluation_in(directory, place, "evaluations")


def evaluation_in(directory: RunDirectory, place: str, option: str) -> Evaluation:
    """The evaluation in a run directory, which `option` named as `place`.

    Raises:
        UserError: as `read_evaluation`.
    """
    try:
        run, summary = directory.read_config(), directory.read_json("evaluation/summary.json")
        start = directory.last_start()
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError.one(option, f"{place} cannot be read ({str(error).splitlines()[0]})") from error
    if summary is None:
        raise UserError([_why_none(place, directory, option)])
    if not _is_whole(summary, run):
        what = f"{place} was evaluated by another version of afa-dist; evaluate again under another name"
        raise UserError.one(option, what)
    return Evaluation(place, directory, summary, run, start)


def _why_none(place: str, directory: RunDirectory, option: str) -> Problem:
    if (directory.path / "evaluation").is_dir():
        return Problem(option, f"{place} is not finished; its command, given again, goes on")
    return Problem(option, f"{place} holds no evaluation; give the run directory of jobs/evaluate.py")


def _is_whole(summary: Any, run: Any) -> bool:
    shaped = isinstance(summary, dict) and all(isinstance(summary.get(key), kind) for key, kind in _SHAPE.items())
    if not shaped or not isinstance(run, dict) or not isinstance(run.get("data"), dict):
        return False
    known = "name" in run["data"] and "part" in run and summary["threat"].get("norm") in NORMS
    figures = [
        *summary["accuracies"].values(),
        *(summary["accuracies"].get(name) for name in ("clean", *summary["attacks"])),
    ]
    return known and _is_number(summary["threat"].get("eps")) and all(map(_is_figure, figures))


def _is_figure(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("interval_95"), list) or len(entry["interval_95"]) != 2:
        return False
    return all(map(_is_number, (entry.get("accuracy"), entry.get("right"), entry.get("images"), *entry["interval_95"])))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
