"""The sections of a report: what is shown of models that were trained, measured and analysed.

Legend: N images, R broken ones, C channels, H height, W width.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from afa_dist.data.image_set import ImageSet
from afa_dist.evaluation.pairs import compare_pairs
from afa_dist.report import charts
from afa_dist.report.blocks import Cell, Figure, Picture, Section, Strip, Table
from afa_dist.report.pictures import heat, magnified, png, sprite
from afa_dist.report.sources import Entry

EXAMPLES = 12
"""Adversarial images shown of each model."""

SALIENCIES = 6
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
        summary = _summary(entry)
        found, last = summary["accuracies"], ["clean", *summary["attacks"]][-1]
        cells = [Cell(entry.title, entry.title, head=True), _accuracy_cell(found["clean"]), _accuracy_cell(found[last])]
        cells += [Cell(summary["label"], summary["label"]), Cell(_threat(summary["threat"]), summary["threat"]["eps"])]
        cells.append(_number(float(found["clean"]["images"])))
        rows.append([*cells, *(_accuracy_cell(found.get(name)) for name in names if name != "clean")])
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
            stands = [
                np.array([by is None for by in e.table["broken_by"].to_pylist()])
                for e in (one.evaluation, other.evaluation)
            ]
            found = compare_pairs(stands[0], stands[1])
            low, high = found.interval_95
            words = f"{one.title} / {other.title}"
            difference = f"{100 * found.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            cells = [Cell(words, words, head=True), _number(float(found.images))]
            cells += [_number(float(found.only_first)), _number(float(found.only_second))]
            yield [*cells, Cell(difference, found.difference), Cell(f"{found.p_value:.2g}", found.p_value)]


def _incomparable(measured: Sequence[Entry]) -> Iterator[str]:
    for key, what in (("threat", "threat models"), ("data_fingerprint", "images"), ("attacks", "attacks")):
        if len({json.dumps(_summary(entry)[key], sort_keys=True) for entry in measured}) > 1:
            yield f"These models were measured with different {what}: their accuracies cannot be compared as they stand."


def curves(entries: Sequence[Entry]) -> Section:
    """Robust accuracy against the radius."""
    section = Section(
        "eps", "Accuracy against eps", "PGD-20 at growing radii; an image that fell at one is down at all greater ones."
    )
    if data := charts.robustness_curve(once(entries)):
        section.figures.append(
            Figure("Accuracy against the radius", f"One line a model, with 95 % intervals; {_counted(entries)}.", data)
        )
    return section


def training(entries: Sequence[Entry]) -> Section:
    """Loss and held-out accuracies of every stage."""
    section = Section("training", "Training", "The checkpoint is chosen on held-out training images, never on test images.")
    for entry in once(entries):
        for title, data in charts.training_curves(entry):
            name = f"{entry.title}: {title}"
            section.figures.append(Figure(name, "Held-out accuracies (left axis) and training loss (right axis).", data))
    return section


def features(entries: Sequence[Entry], images: dict[str, ImageSet]) -> Section:
    """Features in two dimensions, and how far classes lie apart."""
    section = Section(
        "features",
        "Features",
        "Penultimate features of clean and adversarial images in two dimensions. Point at one to see the image. Distances "
        "on such a map say little; the table has them in all dimensions.",
    )
    rows = []
    for entry in once(entries):
        if entry.analysis is None:
            continue
        facts = entry.analysis.facts
        test = images.get(facts["data_fingerprint"])
        if data := charts.embedding(entry, facts["classes"]):
            arrays = entry.analysis.arrays
            sheets = [sprite(test.pixels(arrays["indices_N"])), sprite(arrays["x_adv_NCHW"])] if test else []
            tile = (int(arrays["x_adv_NCHW"].shape[2]), int(arrays["x_adv_NCHW"].shape[3]))
            words = "Circles are clean images, crosses the same ones attacked; one colour a class."
            section.figures.append(Figure(f"{entry.title}: map of features", words, data, sheets, tile))
        rows += list(_feature_rows(entry.title, facts.get("features", {})))
    if rows:
        columns = ["model", "layer", "images", *(title for _, title, _ in _FEATURES)]
        section.tables.append(Table("Alignment and separation of features of unit length", columns, rows))
    return section


_FEATURES = (
    ("within_cosine", "cosine within", 1.0),
    ("between_cosine", "cosine between", 1.0),
    ("within_distance", "distance within", 1.0),
    ("between_distance", "distance between", 1.0),
    ("misaligned_means", "nearer to another class's mean, %", 100.0),
    ("misaligned_neighbours", "nearer to another class's image, %", 100.0),
    ("knn5_acc", "5-NN accuracy, %", 100.0),
    ("knn20_acc", "20-NN accuracy, %", 100.0),
)


def _feature_rows(title: str, found: dict[str, Any]) -> Iterator[list[Cell]]:
    for layer, kinds in found.items():
        for kind, values in kinds.items():
            cells = [Cell(title, title, head=True), Cell(layer, layer), Cell(kind, kind)]
            yield cells + [_number(values.get(key), scale) for key, _, scale in _FEATURES]


def lipschitz(entries: Sequence[Entry]) -> Section:
    """Distribution of local Lipschitz constants."""
    section = Section(
        "lipschitz",
        "Local Lipschitzness",
        "How far the output moves at most, for the distance that the image is moved in the ball; smaller is smoother.",
    )
    for what in ("logits", "features"):
        if data := charts.lipschitz_histogram(once(entries), what):
            section.figures.append(Figure(f"Of {what}", f"One distribution a model; {_counted(entries)}.", data))
    return section


def corruptions(entries: Sequence[Entry]) -> Section:
    """Accuracy under corruptions, and calibration."""
    section = Section("corruptions", "Corruptions and calibration")
    if data := charts.corruption_bars(once(entries)):
        words = f"Accuracy by family of corruptions, over five strengths; {_counted(entries)}."
        section.figures.append(Figure("Corruptions", words, data))
    for entry in once(entries):
        if data := charts.reliability(entry):
            words = "Where accuracy is below confidence, the network is too sure. Large points are many images."
            section.figures.append(Figure(f"{entry.title}: calibration", words, data))
    return section


def saliency(entries: Sequence[Entry], images: dict[str, ImageSet]) -> Section:
    """What the networks look at, on the same images side by side."""
    section = Section(
        "saliency",
        "Saliency",
        "Where the network's decision depends on pixels: input gradient and integrated gradients, of the clean image and "
        "of the attacked one. Bright is much.",
    )
    for entry in once(entries):
        test = images.get(entry.analysis.facts["data_fingerprint"]) if entry.analysis else None
        if entry.analysis is None or test is None or "gradient_MHW" not in entry.analysis.arrays:
            continue
        arrays = entry.analysis.arrays
        for place, index in enumerate(arrays["saliency_indices_M"].tolist()[:SALIENCIES]):
            clean = test.pixels(torch.tensor([index]))[0]
            pictures = [Picture(png(clean), "clean image", "clean")]
            pictures += [_map(arrays, f"{kind}_MHW", place, f"{kind}, clean") for kind in ("gradient", "integrated")]
            pictures.append(Picture(png(arrays["saliency_x_adv_MCHW"][place]), "attacked image", "attacked"))
            pictures += [_map(arrays, f"{kind}_adv_MHW", place, f"{kind}, attacked") for kind in ("gradient", "integrated")]
            section.strips.append(Strip(f"{entry.title}: image {index}", pictures))
    # One image of every model below each other is what one wants to compare.
    section.strips.sort(key=lambda strip: strip.title.rpartition(": ")[2])
    return section


def _map(arrays: dict[str, torch.Tensor], name: str, place: int, words: str) -> Picture:
    return Picture(heat(arrays[name][place]), f"saliency map: {words}", words)


def classes(entries: Sequence[Entry], images: dict[str, ImageSet]) -> Section:
    """Accuracy of each class, the worst first, and what is taken for what under attack."""
    section = Section("classes", "Classes", "The worst classes under attack come first.")
    for entry in entries:
        if entry.evaluation is None:
            continue
        columns = entry.evaluation.table.to_pydict()
        test = images.get(_summary(entry)["data_fingerprint"])
        labels, predictions, told = (np.array(columns[key]) for key in ("label", "prediction", "adv_prediction"))
        standing = np.array([by is None for by in columns["broken_by"]])
        names = test.classes if test else tuple(map(str, range(int(max(labels.max(), told.max())) + 1)))
        rows = []
        for label in np.unique(labels):
            own = labels == label
            wrong = told[own & (told != label)]
            common = int(np.bincount(wrong).argmax()) if len(wrong) else -1
            shown = f"{names[common]} ({100 * np.mean(wrong == common):.0f} % of its errors)" if len(wrong) else "-"
            clean, robust = 100 * float(np.mean(predictions[own] == label)), 100 * float(standing[own].mean())
            cells = [Cell(names[label], names[label], head=True), _number(int(own.sum())), _number(clean), _number(robust)]
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


def provenance(entries: Sequence[Entry]) -> Section:
    """Where the figures come from, and the commands that repeat them."""
    section = Section("provenance", "Where this comes from", "The commands, versions and settings behind each figure.")
    for entry in entries:
        sources: list[tuple[str, Any]] = [(stage.title, stage.directory) for stage in entry.stages]
        sources += [("evaluation", entry.evaluation.directory)] if entry.evaluation else []
        sources += [("analysis", entry.analysis.directory)] if entry.analysis else []
        for title, directory in sources:
            start = (directory.starts() or [{}])[-1]
            command = shlex.join(["python", *map(str, start.get("command", []))])
            facts = {key: start.get(key) for key in ("started", "seed", "data_fingerprint", "code", "versions", "hardware")}
            text = f"{command}\n\n{json.dumps(facts, indent=2)}\n\n{directory.read_text('config.yaml')}"
            section.details.append((f"{entry.title}: {title} ({directory.place})", text))
    return section


def once(entries: Sequence[Entry]) -> list[Entry]:
    """Each model once: what several evaluations have in common is not shown for each."""
    return list({entry.model_sha256: entry for entry in reversed(entries)}.values())[::-1]


def _counted(entries: Sequence[Entry]) -> str:
    counts = sorted({entry.analysis.facts["images"] for entry in entries if entry.analysis})
    return f"of {' or '.join(map(str, counts))} images"


def _summary(entry: Entry) -> dict[str, Any]:
    assert entry.evaluation is not None
    return dict(entry.evaluation.summary)


def _accuracy_cell(entry: dict[str, Any] | None) -> Cell:
    if entry is None:
        return Cell("-")
    low, high = entry["interval_95"]
    return Cell(f"{100 * entry['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]", 100 * entry["accuracy"])


def _number(value: float | None, scale: float = 1.0) -> Cell:
    return (
        Cell("-")
        if value is None
        else Cell(f"{scale * value:.3g}" if scale == 1.0 else f"{scale * value:.1f}", scale * value)
    )


def _threat(threat: dict[str, Any]) -> str:
    steps = threat["eps"] * 255
    whole = abs(steps - round(steps)) < 1e-6 and threat["eps"] != round(threat["eps"], 3)
    return f"{threat['norm']} {f'{round(steps)}/255' if whole else format(threat['eps'], '.4g')}"
