"""Preparing a set: every file once, here or on Ray workers, whatever kills come between; then its record."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from afa_dist.config import ScalingConfig
from afa_dist.config.preparing import PrepareRun
from afa_dist.data.decode import MISTAKES
from afa_dist.data.open_shards import ShardFile
from afa_dist.data.prepared import SetRecord, SplitRecord, write_labels
from afa_dist.data.preparing import KEPT, Preparer, Share, begun_in, done_before, shares_of, statistics
from afa_dist.data.set_place import RECORD
from afa_dist.errors import Problem, Stopped, UserError
from afa_dist.evaluation.executor import Calls, Executor, InProcess, OnProgress, Progress, call_each
from afa_dist.files import exclusive, sha256, sync, write_json
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.preparation import IDENTITY, Preparation, begun_problems, dest_problems, finished
from afa_dist.training.warned import heed_signals

CALLS: Calls = {"write": Preparer.write}


def scaling_of(run: PrepareRun) -> ScalingConfig:
    """Where a preparation computes."""
    return ScalingConfig(workers=run.workers, device="cpu", threads=run.threads)


def prepare(preparation: Preparation, placement: Placement, on_progress: OnProgress) -> dict[str, Any]:
    """Write all files that are not there yet, then the record; returns it. `dest` appears when all is done; if it is there
    already, nothing is.

    Raises:
        Stopped: a signal; the same command goes on.
        UserError: images that cannot be read; files that are finished stay.
    """
    if (record := finished(preparation)) is not None:
        return record
    try:
        (preparation.aside / KEPT).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{preparation.dest} cannot be made ({error.strerror}); choose another place"
        raise UserError.one("dest", what) from error
    with exclusive(preparation.aside.with_suffix(".lock")), heed_signals() as note:
        if problems := [*dest_problems(preparation.dest), *begun_problems(preparation)]:
            raise UserError(problems)
        write_json(preparation.aside / IDENTITY, preparation.identity())
        records = _write_all(preparation, placement, on_progress, lambda: note.reason)
        record = _finish(preparation, records)
    preparation.aside.with_suffix(".lock").unlink(missing_ok=True)
    return record


def _write_all(
    preparation: Preparation, placement: Placement, on_progress: OnProgress, stop: Any
) -> dict[Share, dict[str, Any]]:
    shares = shares_of(preparation.source, preparation.layout)
    records: dict[Share, dict[str, Any]] = {}
    begun = begun_in(preparation.aside)
    for number, share in enumerate(shares):
        if reason := stop():
            raise Stopped(reason)
        on_progress(Progress(f"looking at what is there, file {number + 1} of {len(shares)}", 0.0, None))
        if (record := done_before(share, begun.get((share.split, f"{share.number:05d}"), []))) is not None:
            records[share] = record
    missing = [share for share in shares if share not in records]
    done_names = {share.name for share in records}
    for path in preparation.aside.glob(f"*.{preparation.layout.form}"):
        if path.name not in done_names:  # of images that have changed since, or not finished
            path.unlink()
    total, began = sum(share.stop - share.start for share in missing), time.monotonic()
    done = 0
    problems: list[Problem] = []

    def tick() -> None:
        if reason := stop():
            raise Stopped(reason)
        left = (time.monotonic() - began) / done * (total - done) if done else None
        on_progress(Progress(f"{done} of {total} images", done / total if total else 1.0, left))

    if missing:
        for number, record in call_each(_calls(preparation, missing), _executor(preparation, placement), tick):
            share = missing[number]
            if wrong := record.get("problems"):
                problems += [Problem(*each) for each in wrong]
                if len(problems) >= MISTAKES:
                    break
                continue
            records[share] = record
            done += share.stop - share.start
            tick()
    if problems:
        more = "; inspect SOURCE looks at all of them" if len(problems) >= MISTAKES else ""
        what = f"{len(problems)} mistakes stand above{more}; files without any are finished and stay"
        raise UserError([*problems, Problem("source", what)])
    return {share: records[share] for share in shares}


def _calls(preparation: Preparation, missing: list[Share]) -> Iterator[tuple[Any, ...]]:
    source = preparation.source
    for share in missing:
        labels = source.labels[share.split][share.start : share.stop]
        piece = source.read(share.split, share.start, share.stop) if source.in_order else None
        yield ("write", share, labels, piece)


def _executor(preparation: Preparation, placement: Placement) -> Executor:
    source = None if preparation.source.in_order else preparation.source
    classes = preparation.source.classes
    if placement.workers == 0:
        torch.set_num_threads(placement.threads)
        return InProcess(Preparer(source, preparation.layout, classes, preparation.aside), CALLS)
    from afa_dist.runtime.ray_prepare import on_ray  # imports Ray, after the session's settings

    return on_ray(source, preparation.layout, classes, preparation.aside, placement)


def _finish(preparation: Preparation, records: Mapping[Share, Mapping[str, Any]]) -> dict[str, Any]:
    """Labels and record beside the files; then all of them where they are wanted."""
    source, layout, aside = preparation.source, preparation.layout, preparation.aside
    splits = {}
    for split, labels in source.labels.items():
        files = tuple(ShardFile(**record["file"]) for share, record in records.items() if share.split == split)
        path = aside / f"{split}-labels.arrow"
        write_labels(path, labels, len(source.classes))
        listed = ShardFile(path.name, len(labels), path.stat().st_size, sha256(path))
        per_class = tuple(np.bincount(labels, minlength=len(source.classes)).tolist())
        splits[split] = SplitRecord(len(labels), per_class, listed, files)
    histograms = [record["histogram"] for share, record in records.items() if share.split == "train"]
    mean, std = statistics(np.sum(np.array(histograms, dtype=np.int64), axis=0))
    sizes = {tuple(record["size"] or ()) for record in records.values()}
    one_size = next(iter(sizes)) if len(sizes) == 1 and () not in sizes else None
    of_set = SetRecord(
        classes=source.classes,
        form=layout.form,
        storage=layout.storage,
        channels=layout.channels,
        shape=(layout.channels, *one_size) if one_size else None,
        mean=mean,
        std=std,
        splits=splits,
        source=source.identity,
        licence=preparation.licence,
    )
    record = {**of_set.to_mapping(), "made_as": preparation.identity()}
    write_json(aside / RECORD, record)
    if preparation.dest.exists():
        preparation.dest.rmdir()  # it was empty
    aside.rename(preparation.dest)
    sync(preparation.dest.parent)
    shutil.rmtree(preparation.dest / KEPT)
    return record
