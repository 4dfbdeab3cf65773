"""Running the shards of an evaluation: one after another here, or on Ray workers. The result is the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from afa_dist.config import EvaluateRun
from afa_dist.config.attack_names import AutoAttackPart, parse_attack, single_attacks
from afa_dist.data.catalogue import load_part
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import Problem, TrainingError, UserError
from afa_dist.evaluation.autoattack import FEWEST_CLASSES
from afa_dist.evaluation.evaluator import ShardEvaluator
from afa_dist.evaluation.shards import OnAttack, ShardResult, shard_starts
from afa_dist.evaluation.summary import summarise, write_per_image
from afa_dist.files import sha256
from afa_dist.models.export import ExportedClassifier, load_classifier
from afa_dist.runtime.placement import Placement, torchrun_size
from afa_dist.training.execution import keep_freed_memory
from afa_dist.training.mirroring import brought_here, complete, mirror_problems, take_over
from afa_dist.training.provenance import provenance
from afa_dist.training.run_dir import OTHERS_SECONDS, RunDirectory

OnShard = Callable[[int, int], None]
"""Called with (shards done, shards in all)."""


def model_folder(model: str) -> Path:
    """The exported model in a run directory, or the folder itself; one that lies at an address is copied here first.

    Raises:
        UserError: the address does not answer.
    """
    try:
        folder = brought_here(model, checkpoints=False).path
    except TrainingError as error:
        raise UserError.one("model", str(error)) from error
    return folder / "model" if (folder / "model" / "config.json").exists() else folder


def evaluation_problems(run: EvaluateRun, exported: ExportedClassifier, test: ImageSet) -> Iterator[Problem]:
    """Mistakes that show only beside the model and the data."""
    classes = exported.config["shape"]["classes"]
    channels = exported.config["shape"]["channels"]
    if len(classes) != len(test.classes):
        yield Problem("data.name", f"has {len(test.classes)} classes, the model in {run.model} tells {len(classes)} apart")
    if channels != test.shape[0]:
        yield Problem("data.name", f"has images with {test.shape[0]} channels, the model in {run.model} takes {channels}")
    needs_four = [name for name in single_attacks(run.attacks) if isinstance(parse_attack(name), AutoAttackPart)]
    if needs_four and len(classes) < FEWEST_CLASSES:
        yield Problem(
            "attacks", f"{needs_four[0]} needs at least {FEWEST_CLASSES} classes, there are {len(classes)}; use pgd"
        )
    if len(test) == 0:
        yield Problem("part", "holds no images (data.held_out is 0); use test")
    directory = RunDirectory.of(run)
    if elsewhere := [*mirror_problems(run)]:
        yield from elsewhere
        return
    take_over(run, directory, OTHERS_SECONDS)
    yield from directory.problems(run)
    recorded = directory.read_json("evaluation/summary.json")
    if recorded and recorded["model_sha256"] != weights_hash(model_folder(run.model)):
        yield Problem("name", f"{directory.place} holds the evaluation of other weights; choose another name")
    if recorded and recorded["data_fingerprint"] != test.fingerprint():
        yield Problem("name", f"{directory.place} holds an evaluation on other images; choose another name")


def weights_hash(folder: Path) -> str:
    return sha256(folder / "model.safetensors")


def evaluate(
    run: EvaluateRun,
    test: ImageSet,
    placement: Placement,
    on_shard: OnShard,
    on_attack: OnAttack = lambda name, standing: None,
) -> dict[str, Any]:
    """Evaluate and write `evaluation/summary.json` and `per_image.parquet`; a finished evaluation is only read back.

    Call it inside the session that gave `placement`.
    """
    directory = RunDirectory.of(run)
    if recorded := directory.read_json("evaluation/summary.json"):
        complete(run, directory)
        return recorded
    directory.create(run, provenance(run.seed, test.fingerprint()))
    model = model_folder(run.model)
    model_sha256 = weights_hash(model)  # now, since a place elsewhere may not answer when all is done
    starts = list(shard_starts(len(test), run.shard_size))
    shards: list[ShardResult] = []
    on_shard(0, len(starts))
    for shard in _shards(run, model, test, starts, placement, on_attack):
        shards.append(shard)
        on_shard(len(shards), len(starts))
    shards.sort(key=lambda shard: shard.start)
    folder = directory.path / "evaluation"
    folder.mkdir(exist_ok=True)
    write_per_image(folder / "per_image.parquet", shards)
    summary = {
        **summarise(shards, run.attacks),
        "threat": dataclasses.asdict(run.threat),
        "attacks": list(run.attacks),
        "seed": run.seed,
        "model": run.model,
        "model_sha256": model_sha256,
        "data_fingerprint": test.fingerprint(),
    }
    directory.write_json("evaluation/summary.json", summary)
    complete(run, directory)
    return summary


def _shards(
    run: EvaluateRun, model: Path, test: ImageSet, starts: list[int], placement: Placement, on_attack: OnAttack
) -> Iterator[ShardResult]:
    if placement.workers == 0:
        torch.set_num_threads(placement.threads)
        keep_freed_memory()
        evaluator = ShardEvaluator(run, model, "cuda" if placement.gpu else "cpu", test)
        for start in starts:
            yield evaluator.evaluate(start, on_attack)
        return
    from afa_dist.runtime.ray_evaluate import evaluate_on_ray  # imports Ray, after the session's settings

    yield from evaluate_on_ray(run, test, model, starts, placement)


def check(run: EvaluateRun) -> ImageSet:
    """Load and check everything the evaluation needs; returns the images to measure on.

    Raises:
        UserError: all mistakes of model and data together.
    """
    problems: list[Problem] = []
    exported, test = None, None
    if torchrun_size() > 1:
        problems.append(Problem("scaling.workers", "evaluation is shared by Ray workers; start it without torchrun"))
    if not run.model:
        problems.append(Problem("model", "missing; give the run directory of a fine-tuning run, or an exported folder"))
    else:
        try:
            exported = load_classifier(model_folder(run.model))
        except UserError as error:
            problems.extend(error.problems)
    try:
        test = load_part(run.data, run.part)
    except UserError as error:
        problems.extend(error.problems)
    if exported is not None and test is not None:
        problems.extend(evaluation_problems(run, exported, test))
    if problems or test is None:
        raise UserError(problems)
    return test
