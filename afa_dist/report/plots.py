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
    deviation over seeds."""
    attack = record["attacks"][-1] if record["attacks"] else "clean"
    figure, axes = plt.subplots(figsize=(7.5, 5))
    markers = "osD^vP*X<>hd"
    for index, variant in enumerate(record["variants"].values()):
        clean, robust = variant["accuracy"]["clean"], variant["accuracy"][attack]
        axes.errorbar(
            100 * clean["mean"],
            100 * robust["mean"],
            xerr=100 * clean["std"],
            yerr=100 * robust["std"],
            fmt=markers[index % len(markers)],
            capsize=3,
            label=variant["title"],
        )
    threat = record["threat"]
    seeds = max(len(variant["seeds"]) for variant in record["variants"].values())
    axes.set_xlabel("clean accuracy (%)")
    axes.set_ylabel(f"accuracy under {attack} (%)")
    axes.set_title(f"{record['data']}, {threat['norm']} eps {threat['eps']:.4g}, mean ± std of {seeds} seeds", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)
