"""From shards to a verdict: per-image table, accuracies with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from afa_dist.config.attack_names import AUTOATTACK, GROUPS, single_attacks
from afa_dist.evaluation.shards import STANDING, ShardResult
from afa_dist.files import write_aside

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal."""


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """95 % interval of an accuracy (Wilson 1927): sensible near 0 and 1, where the usual one is not."""
    if images == 0:
        return (0.0, 1.0)
    share = right / images
    spread = Z_95**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / images + spread / (4 * images)) / (1 + spread)
    return (max(0.0, centre - half), min(1.0, centre + half))


def accuracy(right: int, images: int) -> dict[str, Any]:
    low, high = wilson_interval(right, images)
    return {"accuracy": right / images, "interval_95": [low, high], "right": right, "images": images}


def summarise(shards: Sequence[ShardResult], attacks: Sequence[str]) -> dict[str, Any]:
    """clean, then each attack: images right when clean and under it and all attacks before it.

    `autoattack` is what its last part leaves; its parts are there as well.
    """
    broken_by = [by for shard in shards for by in shard.broken_by_N]
    images = len(broken_by)
    right = images - broken_by.count("clean")
    result = {"clean": accuracy(right, images)}
    for name in single_attacks(attacks):
        right -= broken_by.count(name)
        result[name] = accuracy(right, images)
    if GROUPS.keys() & set(attacks):  # each ends with AutoAttack
        result["autoattack"] = result[AUTOATTACK[-1]]
    return {
        "accuracies": result,
        "warnings": list(masking_warnings(broken_by, list(single_attacks(attacks)))),
        "seconds": round(sum(shard.seconds for shard in shards), 1),
    }


def masking_warnings(broken_by: Sequence[str], attacks: Sequence[str]) -> Iterator[str]:
    """Signs that gradients hide adversarial images: Square, which uses none, breaks what white-box attacks did not.

    AutoAttack's own rule: more than 0.2 points of the images, after at least one other attack.
    """
    broken = broken_by.count("square")
    if len(attacks) > 1 and attacks[-1] == "square" and broken > 0.002 * len(broken_by):
        yield (
            f"Square broke {broken} of {len(broken_by)} images that gradient-based attacks left; gradients may be masked, "
            "and the true robust accuracy lower"
        )


def write_per_image(path: Path, shards: Sequence[ShardResult]) -> None:
    """One row an image: index, label, clean prediction, what broke it (null: nothing did)."""
    counts = [len(shard.labels_N) for shard in shards]
    index = np.concatenate([shard.start + np.arange(n) for shard, n in zip(shards, counts, strict=True)])
    broken_by = [None if by == STANDING else by for shard in shards for by in shard.broken_by_N]
    table = pa.table(
        {
            "index": pa.array(index, pa.int64()),
            "label": pa.array(np.concatenate([shard.labels_N for shard in shards]), pa.int64()),
            "prediction": pa.array(np.concatenate([shard.predictions_N for shard in shards]), pa.int64()),
            "broken_by": pa.array(broken_by, pa.string()),
        }
    )
    write_aside(path, lambda aside: pq.write_table(table, aside))
