"""Prepared sets: images in Arrow files that `prepare_data.py` wrote, with a record of everything in `dataset.json`.

dataset.json                     what is there: `SetRecord`
train-00000-of-00005.arrow ...   images, labels and checksums (`shard.py`)
train-labels.arrow               all labels of the split, so that opening reads no image
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from afa_dist.config import DataConfig
from afa_dist.data.chosen import AllRows
from afa_dist.data.image_set import ImageSet, choose_rows
from afa_dist.data.mapped import MappedImages
from afa_dist.data.open_shards import OpenShards, ShardFile
from afa_dist.data.order import LISTED
from afa_dist.data.set_place import RECORD, SetPlace, place_of
from afa_dist.errors import Problem, UserError
from afa_dist.files import sha256

FORMAT = "afa-dist images 1"


@dataclasses.dataclass(frozen=True)
class SplitRecord:
    """images: how many. per_class: of each class. labels: the file with all labels. files: those with the images."""

    images: int
    per_class: tuple[int, ...]
    labels: ShardFile
    files: tuple[ShardFile, ...]


@dataclasses.dataclass(frozen=True)
class SetRecord:
    """What `dataset.json` says.

    form: arrow or parquet. storage: raw or encoded. channels: 1 or 3. shape: C, H, W where all images have one size, else
    None. mean, std: of each channel over all pixels of the training images, on the [0, 1] scale. source, licence: where
    they come from.
    """

    classes: tuple[str, ...]
    form: str
    storage: str
    channels: int
    shape: tuple[int, int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: Mapping[str, SplitRecord]
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    licence: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """As it is written."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @staticmethod
    def of_mapping(found: Mapping[str, Any]) -> SetRecord:
        """Read what `to_mapping` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if found.get("format") != FORMAT:
            raise ValueError(f"its format is {found.get('format', 'not named')!r}, not {FORMAT!r}")
        splits = {
            str(name): SplitRecord(
                int(split["images"]),
                tuple(map(int, split["per_class"])),
                ShardFile(**split["labels"]),
                tuple(ShardFile(**file) for file in split["files"]),
            )
            for name, split in found["splits"].items()
        }
        shape = tuple(map(int, found["shape"])) if found["shape"] else None
        if found["storage"] not in ("raw", "encoded") or (found["storage"] == "raw" and shape is None):
            raise ValueError(f"storage {found['storage']!r} with shape {shape}")
        return SetRecord(
            classes=tuple(map(str, found["classes"])),
            form=str(found["form"]),
            storage=found["storage"],
            channels=int(found["channels"]),
            shape=shape,  # type: ignore[arg-type]  # three numbers
            mean=tuple(map(float, found["mean"])),
            std=tuple(map(float, found["std"])),
            splits=splits,
            source=found.get("source", {}),
            licence=found.get("licence", ""),
        )


def read_record(place: SetPlace) -> SetRecord:
    """The record of a prepared set.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        found = place.record()
    except OSError as error:
        what = f"{place.name} holds no {RECORD}, or is not there; prepare_data.py SOURCE DEST makes a prepared set"
        raise UserError.one("data.path", what) from error
    try:
        return SetRecord.of_mapping(json.loads(found))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError.one(
            f"{place.name}/{RECORD}", f"is no record of a prepared set ({error}); prepare the set again"
        ) from error


def load_prepared(config: DataConfig, split: str, limit: int = 0) -> ImageSet:
    """A split of the prepared set at `config.path`, or `limit` images of it, chosen evenly by class. Reads labels; images
    are read when they are asked for.

    Raises:
        UserError: files are missing, cut off, too many or damaged; or the images have different sizes and no image_size.
    """
    assert config.path is not None
    place = place_of(config.path, config)
    folder = place.name
    record = read_record(place)
    if record.form != "arrow":
        raise UserError.one("data.name", f"{folder} holds {record.form} files; use data.name {record.form}")
    if split not in record.splits:
        raise UserError.one("data.path", f"{folder} has no {split} images; it has {', '.join(record.splits) or 'none'}")
    part = record.splits[split]
    problems = [*file_problems(place, record), *place.room_problems([*part.files, part.labels])]
    size = _size(record, config.image_size)
    if size is None:
        problems.append(
            Problem("data.image_size", f"the images of {folder} have many sizes; set the side they are brought to")
        )
    elif config.image_size and size[1:] != (config.image_size,) * 2:
        what = f"{config.image_size}: {folder} holds pixels of {size[1]} x {size[2]}; leave it out, or prepare it anew"
        problems.append(Problem("data.image_size", f"{what} with --image_size {config.image_size}"))
    if problems or size is None:
        raise UserError(problems)
    labels_N = labels_of(place, part)
    shape = record.shape if record.storage == "raw" else None
    shards = OpenShards(part.files, place.whereabouts(part.files), labels_N, shape)
    images = MappedImages(
        shards=shards,
        rows=AllRows(part.images),
        size=size,
        image_size=config.image_size,
        statistics=(record.mean, record.std),
    )
    labels = torch.tensor(labels_N)
    found = ImageSet(images, labels if part.images > LISTED else labels.long(), record.classes)
    return found.subset(choose_rows(labels_N, limit)) if 0 < limit < part.images else found


def _size(record: SetRecord, image_size: int) -> tuple[int, int, int] | None:
    if record.storage == "encoded" and image_size:
        return (record.channels, image_size, image_size)
    return record.shape


def file_problems(place: SetPlace, record: SetRecord) -> Iterator[Problem]:
    """Whether the files that the record names are there, of the right size, and no others."""
    files = [file for part in record.splits.values() for file in (*part.files, part.labels)]
    folder = place.name
    there = {name: size for name, size in place.sizes().items() if name.endswith(".arrow")}
    if missing := [file.name for file in files if file.name not in there]:
        yield Problem("data.path", f"{folder} lacks {_some(missing)} of its {len(files)} files; copy or prepare it again")
    if foreign := sorted(there.keys() - {file.name for file in files}):
        yield Problem("data.path", f"{folder} holds {_some(foreign)}, which its {RECORD} does not know; remove them")
    for file in files:
        if file.name in there and there[file.name] != file.bytes:
            what = f"{folder}/{file.name} has {there[file.name]} bytes, not {file.bytes}: it was cut off or changed"
            yield Problem("data.path", f"{what}; copy or prepare it again")


def _some(names: Sequence[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def labels_of(place: SetPlace, part: SplitRecord) -> np.ndarray:
    """All labels of a split, in as few bytes as they need."""
    find = place.whereabouts([part.labels])
    path = find(part.labels)
    try:
        whole = _is_whole(path, part.labels)
        if not whole and find.forget(part.labels):
            path = find(part.labels)
            whole = _is_whole(path, part.labels)
        if not whole:
            raise UserError.one("data.path", f"{path} is not what was written; copy or prepare it again")
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            labels: np.ndarray = reader.read_all()["label"].to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError.one("data.path", f"{path} cannot be read ({error}); copy or prepare it again") from error
    if len(labels) != part.images or labels.dtype.kind not in "iu" or not _in_range(labels, len(part.per_class)):
        raise UserError.one("data.path", f"{path} does not fit its {RECORD}; prepare it again")
    return labels


def _is_whole(path: Path, file: ShardFile) -> bool:
    """Whether a file is what was written; another process may be having a damaged one again."""
    try:
        return sha256(path) == file.sha256
    except FileNotFoundError:
        return False


def _in_range(labels_N: np.ndarray, classes: int) -> bool:
    return bool(labels_N.min(initial=0) >= 0 and labels_N.max(initial=0) < classes)


def write_labels(path: Path, labels_N: np.ndarray, classes: int) -> None:
    """Write all labels of a split, in the smallest of int16 and int32."""
    kind = pa.int16() if classes <= np.iinfo(np.int16).max else pa.int32()
    table = pa.table({"label": pa.array(labels_N, kind)})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
