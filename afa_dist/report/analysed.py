"""What a report shows of analyses: the curve over eps, features, Lipschitzness, corruptions, saliency.

Legend: N images, R broken ones, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from afa_dist.data.image_set import ImageSet
from afa_dist.report import charts
from afa_dist.report.blocks import Cell, Figure, Picture, Section, Strip, Table, number_cell
from afa_dist.report.pictures import heat, png, sprite
from afa_dist.report.sources import Entry, once

SALIENCIES = 6


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
            yield cells + [number_cell(values.get(key), scale) for key, _, scale in _FEATURES]


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


def _counted(entries: Sequence[Entry]) -> str:
    counts = sorted({entry.analysis.facts["images"] for entry in entries if entry.analysis})
    return f"of {' or '.join(map(str, counts))} images"
