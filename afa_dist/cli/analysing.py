"""The job behind jobs/analyse.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from rich.table import Table

from afa_dist.address import below
from afa_dist.cli import recipes
from afa_dist.cli.arguments import Arguments
from afa_dist.cli.console import EvaluationProgress
from afa_dist.cli.evaluating import check_partly, with_saved
from afa_dist.cli.job import parse_arguments, run_job, where_of
from afa_dist.cli.words import percent, say
from afa_dist.config import AnalyseRun
from afa_dist.config.fields import pixels
from afa_dist.evaluation.subject import is_foreign, model_folder
from afa_dist.runtime.analyse import analyse
from afa_dist.runtime.analysis_checks import PreparedAnalysis, check
from afa_dist.runtime.cluster import session


def main(program: str, description: str) -> int:
    """Analyse from the command line; returns the exit code."""
    return run_job(
        resolve,
        parse_arguments(AnalyseRun, program, description),
        check=check,
        check_partly=check_partly,
        dry_run=describe,
        execute=execute,
    )


def resolve(arguments: Arguments) -> tuple[type[AnalyseRun], dict[str, Any]]:
    """default < what the model was trained with < recipe < command line.

    A recipe called N is that of the classifier in N/finetune, and its analysis goes to N/analyse.
    """
    recipe = recipes.read_recipe(arguments.config) if arguments.config else {}
    values = recipes.shared(recipe, AnalyseRun)
    overrides = recipes.nest(arguments.overrides)
    if "name" in recipe and any(stage in recipe for stage in recipes.STAGES):
        runs_dir = str(overrides.get("runs_dir", values.get("runs_dir", "runs")))
        values["name"] = f"{recipe['name']}/analyse"
        values.setdefault("model", below(runs_dir, str(recipe["name"]), "finetune"))
    values = with_saved(recipes.merge(values, overrides))
    if "name" not in values and (name := default_name(values)):
        values["name"] = name
    return AnalyseRun, values


def default_name(values: Mapping[str, Any]) -> str:
    """The model's name in the folder of runs with -analysis behind it; empty if it has none."""
    model, runs_dir = str(values.get("model", "")), str(values.get("runs_dir", "runs"))
    if not model:
        return ""
    if is_foreign(model):
        return "".join(sign if sign.isalnum() else "-" for sign in model) + "-analysis"
    path, root = (PurePath(place.partition("?")[0]) for place in (model, runs_dir))
    inside = path.relative_to(root) if path.is_relative_to(root) else PurePath(path.name)
    return f"{inside}-analysis" if inside.name else ""


def describe(run: AnalyseRun, prepared: PreparedAnalysis) -> None:
    """Say what would run, and where."""
    say(f"model: {run.model if is_foreign(run.model) else model_folder(run.model)}")
    say(f"data: {min(run.images, len(prepared.test))} of {len(prepared.test)} test images of {run.data.name}")
    say(f"threat: {run.threat.norm}, eps {pixels(run.threat.eps)}; PGD-{run.steps}; parts: {', '.join(prepared.parts)}")
    if prepared.pretrained:
        say(f"pre-training run: {prepared.pretrained.place}")
    for note in prepared.notes:
        say(f"note: {note}")
    say(f"directory: {where_of(run)}")


def execute(run: AnalyseRun, prepared: PreparedAnalysis) -> None:
    """Analyse, and show the main figures."""
    for note in prepared.notes:
        say(f"note: {note}")
    scaling = dataclasses.replace(run.scaling, workers=0)
    with session(scaling) as placement, EvaluationProgress("analyse") as progress:
        result = analyse(run, prepared, placement, progress.show)
    say(table_of(run, result))
    say(f"run directory: {where_of(run)}")


def table_of(run: AnalyseRun, result: Mapping[str, Any]) -> Table:
    """The main figures, clean and attacked."""
    threat = f"{run.threat.norm} eps {pixels(run.threat.eps)}"
    title = f"{result['images']} test images of {run.data.name}; attacked: PGD-{run.steps}, {threat}"
    table = Table("figure", "clean", "attacked", title=title, title_justify="left")
    for rows in (_feature_rows, _other_rows):
        for row in rows(result):
            table.add_row(*row)
    return table


Row = tuple[str, str, str]


def _feature_rows(result: Mapping[str, Any]) -> Iterator[Row]:
    words = {
        "within_cosine": "cosine within classes",
        "between_cosine": "cosine between classes",
        "misaligned_means": "nearer to another class's mean",
        "misaligned_neighbours": "nearest image of another class",
        "knn20_acc": "right by 20 nearest training images",
    }
    for layer, found in result.get("features", {}).items():
        for key, what in words.items():
            shown = _number if key.endswith("cosine") else _share
            yield f"{layer}: {what}", shown(found["clean"][key]), shown(found["adversarial"][key])
        yield f"{layer}: cosine with own clean image", "", _number(found["adversarial"]["own_clean_cosine"])


def _other_rows(result: Mapping[str, Any]) -> Iterator[Row]:
    for output, found in result.get("lipschitz", {}).items():
        yield f"local Lipschitzness of {output}, mean", _number(found["mean"]), ""
    if corruptions := result.get("corruptions"):
        for family, mean in corruptions["means"].items():
            yield f"accuracy under {family}", _share(mean), ""
        yield "accuracy under all corruptions", _share(corruptions["mean"]), ""
    for kind, found in result.get("saliency", {}).items():
        yield f"cosine of {kind} maps, clean and attacked", "", _number(found["clean_adv_cosine"])
    for point in result.get("curve", []):
        yield (
            f"accuracy at eps {pixels(point['eps'])}",
            *((_share(point["accuracy"]), "") if point["eps"] == 0 else ("", _share(point["accuracy"]))),
        )
    if calibration := result.get("calibration"):
        errors = (_number(calibration[which]["ece"]) for which in ("clean", "adversarial"))
        clean, adversarial = errors
        yield "expected calibration error", clean, adversarial


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value)
