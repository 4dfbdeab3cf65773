"""What must be right before an evaluation begins: model, images, options, and what the directory holds from before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from afa_dist.config import EvaluateRun
from afa_dist.config.attack_names import AutoAttackPart, parse_attack
from afa_dist.data.catalogue import load_part
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import Problem, UserError, collected
from afa_dist.evaluation.autoattack import FEWEST_CLASSES, autoattack_version
from afa_dist.evaluation.subject import Subject, load_subject, same_answers, subject_problems
from afa_dist.runtime.placement import torchrun_size
from afa_dist.training.mirroring import bring_here_problems
from afa_dist.training.run_dir import RunDirectory

ATTACKS_VERSION = 1
"""Counts changes of what our attacks give for the same options."""

IDENTITY = "evaluation/identity.json"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A checked evaluation: the network, and the images to measure it on."""

    subject: Subject
    test: ImageSet


def check(run: EvaluateRun) -> Prepared:
    """Load and check everything the evaluation needs.

    Raises:
        UserError: all mistakes of model and data together.
    """
    problems: list[Problem] = []
    subject, test = None, None
    if torchrun_size() > 1:
        problems.append(Problem("scaling.workers", "evaluation is shared by Ray workers; start it without torchrun"))
    with collected(problems):
        subject = load_subject(run.model)
    with collected(problems):
        test = load_part(run.data, run.part)
    if test is not None and len(test) == 0:
        problems.append(Problem("part", "holds no images (data.held_out is 0); use test"))
    if subject is not None and test is not None:
        unfit = list(subject_problems(subject, run.model, test))
        problems.extend([*unfit, *attack_problems(run, len(test.classes))])
        if not unfit:  # else it cannot be asked for its answers
            problems.extend(_directory_problems(run, Prepared(subject, test)))
    if problems or test is None or subject is None:
        raise UserError(problems)
    return Prepared(subject, test)


def facts_of(run: EvaluateRun, prepared: Prepared) -> dict[str, Any]:
    """All that an outcome depends on, beyond rounding: results with other facts are never mixed."""
    return {
        "model_sha256": prepared.subject.sha256,
        "answers": prepared.subject.answers(prepared.test),
        "data_fingerprint": prepared.test.fingerprint(),
        "threat": dataclasses.asdict(run.threat),
        "attacks": run.single_attacks,
        "seed": run.seed,
        "shard_size": run.shard_size,
        "batch_size": run.batch_size,
        "versions": {
            "afa-dist attacks": ATTACKS_VERSION,
            "autoattack": autoattack_version(),
            "torch": torch.__version__.partition("+")[0],
        },
    }


def attack_problems(run: EvaluateRun, classes: int) -> Iterator[Problem]:
    """Attacks that cannot be run with so few classes."""
    for name in run.single_attacks:
        attack = parse_attack(name)
        fewest = FEWEST_CLASSES.get(attack.kind, 0) if isinstance(attack, AutoAttackPart) else 0
        if classes < fewest:
            yield Problem("attacks", f"{name} needs at least {fewest} classes, there are {classes}; use pgd")
            return


def _directory_problems(run: EvaluateRun, prepared: Prepared) -> Iterator[Problem]:
    if elsewhere := [*bring_here_problems(run)]:
        yield from elsewhere
        return
    yield from record_problems(run, RunDirectory.of(run), facts_of(run, prepared))


def record_problems(run: EvaluateRun, directory: RunDirectory, facts: Mapping[str, Any]) -> Iterator[Problem]:
    """Whether the directory holds another evaluation, or none where there must be one."""
    yield from directory.problems(run)
    recorded = directory.read_json(IDENTITY)
    if not isinstance(recorded, dict):
        if directory.has_results():
            yield Problem("name", f"{directory.place} holds an evaluation of an earlier version; choose another name")
        elif run.merge:
            yield Problem("merge", f"{directory.place} holds no evaluation; start with shard i/n first")
        return
    recorded, facts = dict(recorded), dict(facts)
    same = same_answers(recorded.pop("answers", None), facts.pop("answers", None))
    other = [words for key, words in _WORDS.items() if recorded.get(key) != facts[key]]
    if recorded.get("versions") != facts["versions"]:
        other.append(f"versions ({_versions(recorded.get('versions'))}; now {_versions(facts['versions'])})")
    if not same and not other:
        other.append("answers to the same images (its code has changed)")
    if not other and recorded != facts:
        other.append(f"options ({', '.join(key for key in facts if recorded.get(key) != facts[key])})")
    if other:
        yield Problem(
            "name", f"{directory.place} holds an evaluation with other {' and '.join(other)}; choose another name"
        )


_WORDS = {"model_sha256": "weights", "data_fingerprint": "images"}


def _versions(versions: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in versions.items()) if isinstance(versions, dict) else "unknown"
