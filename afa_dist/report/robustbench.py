"""RobustBench's record of a model: model_info/<data set>/<threat model>/<Name><Year><FirstWord>.json in its repository.

Keys and the form of their values are those of the 156 records for CIFAR in RobustBench at commit 78fcc9e: figures are per
cent as text. `external`, the best that other attacks do, is for others to fill in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from afa_dist.config.attack_names import AUTOATTACK, versions_in
from afa_dist.config.exporting import ExportRun
from afa_dist.config.fields import pixels
from afa_dist.report.evaluations import NORMS, Evaluation
from afa_dist.report.recipe import last_name

BOARDS = {("cifar10", "linf"): 8 / 255, ("cifar10", "l2"): 0.5, ("cifar100", "linf"): 8 / 255}
"""Leaderboards of Lp threats for small images, and their radius."""

_DIRECTORY = {"linf": "Linf", "l2": "L2"}


def robustbench_record(
    export: ExportRun, title: str, config: Mapping[str, Any], evaluations: Sequence[Evaluation], init: str
) -> dict[str, Any]:
    """The record, made of the evaluation that comes nearest to what RobustBench asks for.

    autoattack_acc is null, and the footnote says why, unless the whole of AutoAttack's standard version was run on the
    full test set. init: what fine-tuning started from.
    """
    chosen = nearest(evaluations)
    accuracies = chosen.summary["accuracies"]
    counts = is_claim(chosen)
    record: dict[str, Any] = {
        "link": export.paper,
        "name": title,
        "authors": ", ".join(export.authors) or None,
        "additional_data": export.additional_data,
        "number_forward_passes": 1,
        "dataset": chosen.data,
        "venue": export.venue or "Unpublished",
        "architecture": architecture_words(config["model"]["arch"]),
        "eps": pixels(chosen.eps),
        "clean_acc": _percent(accuracies["clean"]),
        "reported": _percent(accuracies["autoattack"]) if counts else None,
        "autoattack_acc": _percent(accuracies["autoattack"]) if counts else None,
    }
    if footnote := " ".join(_remarks(chosen, init)):
        record["footnote"] = footnote
    if counts:
        record["unreliable"] = bool(chosen.summary["warnings"])
    return record


def is_claim(evaluation: Evaluation) -> bool:
    """Whether its figures are what RobustBench calls AutoAttack accuracy."""
    return evaluation.has_autoattack and evaluation.on_full_test_set


def nearest(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The evaluation that comes nearest to RobustBench's; of equals, the first."""
    return max(evaluations, key=lambda e: (is_claim(e), _on_board(e), e.on_full_test_set, e.has_autoattack, e.images))


def place_in_robustbench(evaluation: Evaluation) -> str:
    """Where its record goes in RobustBench's repository."""
    return f"model_info/{evaluation.data}/{_DIRECTORY[evaluation.norm]}/<Name><Year><FirstWordOfTheTitle>.json"


def architecture_words(arch: str) -> str:
    """`wrn-34-10` as RobustBench writes it: WideResNet-34-10."""
    if match := re.fullmatch(r"wrn-(\d+)-(\d+)", arch):
        return f"WideResNet-{match[1]}-{match[2]}"
    if match := re.fullmatch(r"resnet(\d+)", arch):
        return f"ResNet-{match[1]}"
    return arch


def _on_board(evaluation: Evaluation) -> bool:
    radius = BOARDS.get((evaluation.data, evaluation.norm))
    return radius is not None and abs(radius - evaluation.eps) < 1e-9


def _remarks(chosen: Evaluation, init: str) -> Iterator[str]:
    """What a reader of the figures must know."""
    where = "the full test set" if chosen.on_full_test_set else f"{chosen.images:,} {_part_words(chosen)} images only"
    last = chosen.summary["attacks"][-1] if chosen.summary["attacks"] else "clean"
    if not is_claim(chosen):
        lowest = _percent(chosen.summary["accuracies"][last])
        yield f"autoattack_acc is empty. Measured: {lowest} % stand ({chosen.label}), on {where}."
    elif others := _before_autoattack(chosen.summary["attacks"]):
        yield f"Images count as robust that stand under AutoAttack and, before it, {', '.join(others)}."
    if not _on_board(chosen):
        what = f"{chosen.data}, {NORMS[chosen.norm]}, eps {pixels(chosen.eps)}"
        yield f"RobustBench has no leaderboard for {what}."
    if init.endswith(".safetensors"):
        yield f"Trained from published weights ({last_name(init)})."
    yield from (f"Warning of the evaluation: {warning}." for warning in chosen.summary["warnings"])


def _before_autoattack(attacks: Sequence[str]) -> list[str]:
    """Other attacks that came before AutoAttack's last part, so that its accuracy is that under both."""
    end = list(attacks).index(versions_in(attacks)["autoattack"])
    return [name for name in attacks[:end] if name not in AUTOATTACK]


def _part_words(evaluation: Evaluation) -> str:
    return "test" if evaluation.part == "test" else "held-out training"


def _percent(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['accuracy']:.2f}"
