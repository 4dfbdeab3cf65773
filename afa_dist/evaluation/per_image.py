"""One row an image: what became of it.

Legend: N images of a shard, R of them broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from afa_dist.data.image_set import ImageSet
from afa_dist.evaluation.outcome import CLEAN, Outcome
from afa_dist.files import write_aside

SCHEMA = pa.schema(
    {
        "index": pa.int64(),
        "label": pa.int64(),
        "prediction": pa.int64(),
        "broken_by": pa.string(),
        "adv_prediction": pa.int64(),
        "margin": pa.float32(),
        "adv_margin": pa.float32(),
        "linf": pa.float32(),
        "l2": pa.float32(),
        "seconds": pa.float32(),
    }
)
"""prediction, margin: of the image as it is; a margin is the right logit minus the best wrong one.
broken_by: `clean`, the first attack that broke it, or null. adv_prediction: what the network says then; where nothing broke
it, what it says of the image as it is. adv_margin, linf, l2: at the image that broke it, and its distance (null: none did).
seconds: the image's share of the time of each attack on it."""


def shard_table(outcomes: Sequence[Outcome], test: ImageSet) -> pa.Table:
    """The rows of one shard, from its outcomes in order (the clean one first)."""
    clean = outcomes[0]
    assert clean.name == CLEAN
    labels_N, predictions_N = clean.tensors["labels_N"].numpy(), clean.tensors["predictions_N"].numpy()
    count = len(labels_N)
    broken_by: list[str | None] = [CLEAN if wrong else None for wrong in labels_N != predictions_N]
    adv_prediction = predictions_N.copy()
    seconds = np.full(count, clean.seconds / count, np.float32)
    found = {name: np.full(count, np.nan, np.float32) for name in ("adv_margin", "linf", "l2")}
    for outcome in outcomes[1:]:
        standing = [place for place, by in enumerate(broken_by) if by is None]
        seconds[standing] += outcome.seconds / outcome.count
        places_R = outcome.broken - clean.start
        x = test.pixels(torch.from_numpy(outcome.broken))
        delta_RD = (outcome.tensors["x_adv_RCHW"] - x).flatten(1)
        adv_prediction[places_R] = outcome.tensors["predictions_R"].numpy()
        found["adv_margin"][places_R] = outcome.tensors["margins_R"].numpy()
        if len(places_R):
            found["linf"][places_R] = delta_RD.abs().amax(dim=1).numpy()
            found["l2"][places_R] = delta_RD.norm(dim=1).numpy()
        for place in places_R:
            broken_by[place] = outcome.name
    nulls = {name: pa.array(values, pa.float32(), mask=np.isnan(values)) for name, values in found.items()}
    columns = {
        "index": clean.start + np.arange(count),
        "label": labels_N,
        "prediction": predictions_N,
        "broken_by": broken_by,
        "adv_prediction": adv_prediction,
        "margin": clean.tensors["margins_N"].numpy(),
        "seconds": seconds,
        **nulls,
    }
    return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)


def write_per_image(path: Path, shards: Iterable[pa.Table]) -> pa.Table:
    """Write the tables of all shards as one; returns it."""
    table = pa.concat_tables(shards)
    write_aside(path, lambda aside: pq.write_table(table, aside))
    return table
