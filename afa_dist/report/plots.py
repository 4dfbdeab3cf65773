"""Plots, with matplotlib (the extra `plots`). Importing this module needs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: there may be no display

from matplotlib import pyplot as plt

from afa_dist.files import write_aside


def save(figure: Any, path: Path) -> None:
    """Write a figure so that nobody sees half of it, and free it."""
    write_aside(path, lambda aside: figure.savefig(aside, format="png", dpi=150, bbox_inches="tight"))
    plt.close(figure)


def trade_off(record: Mapping[str, Any], path: Path) -> None:
    """Clean accuracy against accuracy under the last, strongest attack: one point a variant, bars of one standard
    deviation over seeds. Where some variants are far less robust than the best, a second panel shows the others closer.
    """
    attack = record["attacks"][-1] if record["attacks"] else "clean"
    variants = list(record["variants"].values())
    best = max(variant["accuracy"][attack]["mean"] for variant in variants)
    close = [variant["accuracy"][attack]["mean"] > 0.7 * best for variant in variants]
    panels = [[True] * len(variants)] + ([close] if not all(close) and sum(close) > 1 else [])
    figure, row = plt.subplots(1, len(panels), figsize=(1.5 + 5.5 * len(panels), 4.8), squeeze=False)
    colours = plt.get_cmap("tab10")
    for axes, shown in zip(row[0], panels, strict=True):
        for index, variant in enumerate(variants):
            if not shown[index]:
                continue
            clean, robust = variant["accuracy"]["clean"], variant["accuracy"][attack]
            x, y, colour = 100 * clean["mean"], 100 * robust["mean"], colours(index % colours.N)
            if len(variant["seeds"]) > 1:  # one run has no spread, and no bar that would look like none
                bars = {"xerr": 100 * clean["std"], "yerr": 100 * robust["std"], "ecolor": colour}
                axes.errorbar(x, y, fmt="none", **bars, elinewidth=1, capsize=3, alpha=0.6)
            # Points are told apart by a number: there may be more variants than colours that eyes can tell apart.
            axes.scatter(x, y, s=150, color=colour, edgecolors="white", zorder=3 + index)
            axes.annotate(str(index + 1), (x, y), color="white", fontsize=7, ha="center", va="center", zorder=3 + index)
        axes.set_xlabel("clean accuracy (%)")
        axes.set_ylabel(f"accuracy under {attack} (%)")
        axes.grid(alpha=0.3)
    counts = [len(variant["seeds"]) for variant in variants]
    uneven = len(set(counts)) > 1
    seeds = f"{min(counts)} to {max(counts)}" if uneven else counts[0]
    threat = f"{record['threat']['norm']} eps {record['threat']['eps']:.4g}"
    figure.suptitle(
        f"{record['name']}: {record['data']}, {threat}, {record['part'].replace('_', '-')} images, mean ± std, n = {seeds}",
        fontsize=11,
    )
    figure.tight_layout()
    notes = [f" (n = {count})" if uneven else "" for count in counts]
    legend = "\n".join(f"{index + 1}  {variant['title']}{notes[index]}" for index, variant in enumerate(variants))
    figure.text(1.0, 0.5, legend, fontsize=9, va="center")
    save(figure, path)


def curves(panels: Mapping[str, Mapping[str, Any]], title: str, path: Path, legend: str) -> None:
    """One panel a quantity (its name is the y axis), one line a run: values are [epoch, value] pairs."""
    figure, row = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.6), squeeze=False)
    for axes, (name, lines) in zip(row[0], panels.items(), strict=True):
        for label, pairs in lines.items():
            axes.plot(*zip(*pairs, strict=True), label=label, linewidth=1.2)
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    row[0][0].legend(title=legend, fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    save(figure, path)


def scatter_pairs(panels: Mapping[str, tuple[Any, Any, Any]], classes: tuple[str, ...], title: str, path: Path) -> None:
    """One panel a state of the network: clean points as dots, attacked ones as crosses, coloured by class.

    A panel holds clean points (N, 2), attacked points (N, 2) and labels (N,), in coordinates of its own.
    """
    figure, row = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.6), squeeze=False)
    colours = plt.get_cmap("tab10" if len(classes) <= 10 else "gist_ncar", len(classes))
    for axes, (name, (clean, adv, labels)) in zip(row[0], panels.items(), strict=True):
        for index, label in enumerate(classes):
            mine = labels == index
            axes.scatter(*clean[mine].T, s=10, color=colours(index), label=label)
            axes.scatter(*adv[mine].T, s=16, marker="x", linewidths=0.8, color=colours(index))
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("first principal direction of this panel")
        axes.set_ylabel("second")
        axes.set_xticks([])
        axes.set_yticks([])
    if len(classes) <= 20:
        row[0][-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    save(figure, path)
