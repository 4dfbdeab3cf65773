"""What a report shows of evaluations: accuracies side by side, classes, adversarial images.

Legend: N images, R broken ones, C channels, H height, W width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from afa_dist.data.image_set import ImageSet
from afa_dist.evaluation.pairs import compare_pairs
from afa_dist.evaluation.summary import clean_and_last
from afa_dist.report import charts
from afa_dist.report.blocks import Cell, Figure, Picture, Section, Strip, Table, accuracy_cell, number_cell
from afa_dist.report.evaluations import Evaluation
from afa_dist.report.pictures import magnified, png
from afa_dist.report.sources import Entry

EXAMPLES = 12
"""Adversarial images shown of each model."""

MOST_CLASSES = 40
"""Beyond so many, a matrix of all pairs cannot be read."""


def headline(entries: Sequence[Entry]) -> Section:
    """Accuracies of all models side by side."""
    measured = [entry for entry in entries if entry.evaluation]
    section = Section(
        "accuracy",
        "Accuracy",
        "Per cent of images classified rightly, [95 % interval]. An image counts under an attack if it withstood that one "
        "and all that its evaluation ran before it. A column is sorted by its heading.",
    )
    if not measured:
        return section
    names = charts.merged([["clean", *_summary(entry)["attacks"]] for entry in measured])
    rows = []
    for entry in measured:
        evaluation, summary = entry.evaluation, _summary(entry)
        assert evaluation is not None
        found = summary["accuracies"]
        cells = [Cell(entry.title, entry.title, head=True), *map(accuracy_cell, clean_and_last(summary))]
        cells += [Cell(summary["label"], summary["label"]), Cell(evaluation.threat, evaluation.eps)]
        cells.append(number_cell(float(found["clean"]["images"])))
        rows.append([*cells, *(accuracy_cell(found.get(name)) for name in names if name != "clean")])
        section.warnings += [f"{entry.title}: {warning}" for warning in summary["warnings"]]
    section.tables.append(
        Table("Accuracy by attack", ["model", "clean", "all attacks", "which are", "threat", "images", *names[1:]], rows)
    )
    section.warnings += _incomparable(measured)
    if pairs := list(_pairs(measured)):
        columns = ["models", "images", "only the first stands", "only the second stands", "difference", "p (McNemar)"]
        section.tables.append(Table("The same images under all attacks, side by side", columns, pairs))
    if data := charts.accuracy_dots(entries):
        section.figures.append(Figure("Accuracy by attack", "With 95 % intervals.", data))
    return section


def _pairs(measured: Sequence[Entry]) -> Iterator[list[Cell]]:
    """Two models on the same images, image by image: far more telling than two intervals that overlap."""
    for number, one in enumerate(measured):
        for other in measured[number + 1 :]:
            same = all(_summary(one)[key] == _summary(other)[key] for key in ("threat", "data_fingerprint", "attacks"))
            if one.evaluation is None or other.evaluation is None or not same:
                continue
            found = compare_pairs(_standing(one.evaluation), _standing(other.evaluation))
            low, high = found.interval_95
            words = f"{one.title} / {other.title}"
            difference = f"{100 * found.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            cells = [Cell(words, words, head=True), number_cell(float(found.images))]
            cells += [number_cell(float(found.only_first)), number_cell(float(found.only_second))]
            yield [*cells, Cell(difference, found.difference), Cell(f"{found.p_value:.2g}", found.p_value)]


def _standing(evaluation: Evaluation) -> np.ndarray:
    """Which images no attack broke, bool (N,)."""
    return np.array([by is None for by in evaluation.table["broken_by"].to_pylist()])


def _incomparable(measured: Sequence[Entry]) -> Iterator[str]:
    for key, what in (("threat", "threat models"), ("data_fingerprint", "images"), ("attacks", "attacks")):
        if len({json.dumps(_summary(entry)[key], sort_keys=True) for entry in measured}) > 1:
            yield f"These models were measured with different {what}: their accuracies cannot be compared as they stand."


def classes(entries: Sequence[Entry], images: dict[str, ImageSet]) -> Section:
    """Accuracy of each class, the worst first, and what is taken for what under attack."""
    section = Section("classes", "Classes", "The worst classes under attack come first.")
    for entry in entries:
        if entry.evaluation is None:
            continue
        table = entry.evaluation.table
        test = images.get(_summary(entry)["data_fingerprint"])
        labels, predictions, told = (table[key].to_numpy() for key in ("label", "prediction", "adv_prediction"))
        standing = _standing(entry.evaluation)
        names = test.classes if test else tuple(map(str, range(int(max(labels.max(), told.max())) + 1)))
        rows = []
        for label in np.unique(labels):
            own = labels == label
            wrong = told[own & (told != label)]
            common = int(np.bincount(wrong).argmax()) if len(wrong) else -1
            shown = f"{names[common]} ({100 * np.mean(wrong == common):.0f} % of its errors)" if len(wrong) else "-"
            clean, robust = 100 * float(np.mean(predictions[own] == label)), 100 * float(standing[own].mean())
            cells = [
                Cell(names[label], names[label], head=True),
                number_cell(int(own.sum())),
                number_cell(clean),
                number_cell(robust),
            ]
            rows.append([*cells, Cell(shown, shown)])
        rows.sort(key=lambda row: float(row[3].value or 0))
        section.tables.append(
            Table(f"{entry.title}: by class", ["class", "images", "clean, %", "robust, %", "most often taken for"], rows)
        )
        if len(names) <= MOST_CLASSES:
            data = charts.confusion(labels, told, names)
            words = "Of the images of a class, the share that the network takes for each class when attacked."
            section.figures.append(Figure(f"{entry.title}: confusion under attack", words, data))
    return section


def examples(entries: Sequence[Entry], images: dict[str, ImageSet]) -> Section:
    """Images that attacks broke, beside what they were."""
    section = Section(
        "examples",
        "Adversarial images",
        "The clean image, the perturbation (around mid-grey, magnified as told), and the image that is misclassified.",
    )
    for entry in entries:
        test = images.get(_summary(entry)["data_fingerprint"]) if entry.evaluation else None
        if entry.evaluation is None or test is None:
            continue
        columns = entry.evaluation.table.select(["label", "adv_prediction", "broken_by", "linf", "l2"]).to_pylist()
        broken = dict(_broken(entry))
        for index in _one_of_each(broken, test.labels_N):
            row, x_adv = columns[index], broken[index]
            x = test.pixels(torch.tensor([index]))[0]
            change, factor = magnified(x_adv - x)
            label, taken = test.classes[row["label"]], test.classes[row["adv_prediction"]]
            pictures = [
                Picture(png(x), f"clean image of {label}", label),
                Picture(change, "perturbation", f"perturbation x {factor:.3g}"),
                Picture(png(x_adv), f"attacked image, taken for {taken}", f"taken for {taken}"),
            ]
            by = f"{row['broken_by']}, L-inf {row['linf']:.3g}, L2 {row['l2']:.3g}"
            section.strips.append(Strip(f"{entry.title}: image {index}, {by}", pictures))
    return section


def _broken(entry: Entry) -> Iterator[tuple[int, torch.Tensor]]:
    assert entry.evaluation is not None
    for outcome in entry.evaluation.outcomes():
        yield from zip(outcome.broken.tolist(), outcome.tensors["x_adv_RCHW"], strict=True)


def _one_of_each(broken: dict[int, torch.Tensor], labels_N: torch.Tensor) -> list[int]:
    """Some broken images, as many classes as there are among them first."""
    seen: dict[int, int] = {}
    ranked = []
    for index in sorted(broken):
        label = int(labels_N[index])
        ranked.append((seen.get(label, 0), index))
        seen[label] = seen.get(label, 0) + 1
    return sorted(index for _, index in sorted(ranked)[:EXAMPLES])


def _summary(entry: Entry) -> dict[str, Any]:
    assert entry.evaluation is not None
    return dict(entry.evaluation.summary)
