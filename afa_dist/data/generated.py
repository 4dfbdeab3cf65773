"""Generated images to mix into training: those of generate.py sample, or any Parquet files like them."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from afa_dist.address import is_address, without_options
from afa_dist.config import DataConfig
from afa_dist.config.data_section import RESIZED
from afa_dist.data.image_set import ImageSet
from afa_dist.data.parquet import load_parquet, named_failures, split_files
from afa_dist.data.prepared import load_prepared
from afa_dist.errors import UserError, named_by

DATASET = "dataset.json"
"""What is recorded beside the files of a set."""


def load_generated(config: DataConfig, train: ImageSet) -> ImageSet:
    """The images that `config.generated` names, which fit beside the real ones.

    Raises:
        UserError: files missing or damaged, a set that is not finished, or images of another size or of other classes.
    """
    assert config.generated is not None
    folder = without_options(config.generated)
    if is_address(config.generated) or record_of(config.generated).get("form") == "arrow":
        found = _load_prepared(config)
    else:
        found = _load_parquet(Path(config.generated).expanduser(), config)
    if found.shape != train.shape:
        sizes = [" x ".join(map(str, part.shape)) for part in (found, train)]
        resizes = config.name in RESIZED and found.shape[0] == train.shape[0]
        hint = "; set data.image_size, and all are brought to one size" if resizes else ""
        raise UserError.one(
            "data.generated", f"{folder} has images of {sizes[0]} pixels, the real ones have {sizes[1]}{hint}"
        )
    if found.classes != train.classes:
        _check_classes(folder, found, train)
    return ImageSet(found.images_NCHW, found.labels_N, train.classes)


def _load_parquet(folder: Path, config: DataConfig) -> ImageSet:
    if not folder.is_dir():
        raise UserError.one("data.generated", f"{folder} is not a folder that can be read")
    if not (files := split_files(folder, "train")) and (folder / "config.yaml").exists():
        raise UserError.one("data.generated", f"{folder} is not a finished set of images; finish generate.py first")
    check_files(files, "data.generated")
    return load_parquet(folder, "train", config.generated_limit, config.image_size, evenly=False)


def _load_prepared(config: DataConfig) -> ImageSet:
    with named_by("data.generated"):
        found = load_prepared(dataclasses.replace(config, name="prepared", path=config.generated), "train")
    limit = config.generated_limit
    return found.subset(np.arange(limit)) if 0 < limit < len(found) else found


def check_files(files: Sequence[Path], option: str, split: str = "train") -> None:
    """Whether these are all files of a split, as far as their names, the run that they lie in or a record beside them say;
    what is in them is checked as they are read.

    Raises:
        UserError: some are missing, or there are others; `option` named them.
    """
    if not files:
        return
    folder = files[0].parent
    if folder.name == "data" and (folder.parent / "config.yaml").exists() and not (folder / DATASET).exists():
        raise UserError.one(option, f"{folder.parent} is not a finished set of images; finish generate.py first")
    there = {path.name: path for path in files}
    numbers = [match for name in there if (match := NUMBERED.fullmatch(name))]
    recorded = recorded_files(folder, option, split)
    wanted = set(recorded) | {f"{m[1]}-{n:05d}-of-{m[3]}.parquet" for m in numbers for n in range(int(m[3]))}
    if missing := sorted(wanted - set(there)):
        what = f"{folder} lacks {', '.join(missing[:5])} ({len(missing)} of {len(wanted)} files)"
        raise UserError.one(option, f"{what}; copy or make it again")
    if recorded and (foreign := sorted(set(there) - wanted)):
        raise UserError.one(option, f"{folder} holds {', '.join(foreign[:5])}, which its {DATASET} does not know")
    for name, rows in recorded.items():
        with named_failures(there[name]):
            found = pq.read_metadata(there[name]).num_rows
        if found != rows:
            raise UserError.one(option, f"{there[name]} has {found} rows, its {DATASET} says {rows}")


NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.parquet")


def recorded_files(folder: Path, option: str, split: str) -> dict[str, int]:
    """Names and rows of the files of a split, as recorded beside them; empty where nothing is.

    Raises:
        UserError: the record says something else.
    """
    record = record_of(str(folder))
    files = record.get("files")
    if files is None and isinstance(record.get("splits"), dict):  # of prepare_data.py
        files = (record["splits"].get(split) or {}).get("files")
    if files is None:
        return {}
    try:
        return {str(file["name"]): int(file["rows"]) for file in files}
    except (KeyError, TypeError, ValueError) as error:
        what = f"{folder / DATASET} does not list its files with name and rows; make the set again, or remove it"
        raise UserError.one(option, what) from error


def _check_classes(folder: str, found: ImageSet, train: ImageSet) -> None:
    """Files may name no classes: then their labels count, which must be among those of the real images."""
    if numbered(found.classes) and len(found.classes) <= len(train.classes):
        return
    if len(found.classes) != len(train.classes):
        what = f"{folder} has {len(found.classes)} classes, the real images have {len(train.classes)}"
        raise UserError.one("data.generated", what)
    ours, theirs = next(pair for pair in zip(found.classes, train.classes, strict=True) if pair[0] != pair[1])
    raise UserError.one("data.generated", f"class {ours!r} of {folder} is {theirs!r} among the real images")


def numbered(classes: tuple[str, ...]) -> bool:
    """Whether these are no names, but numbers from 0 on, as files have them that name no classes."""
    return classes == tuple(str(number) for number in range(len(classes)))


def record_of(generated: str) -> dict[str, Any]:
    """What is recorded of a set; empty for files that others made."""
    for folder in (Path(generated).expanduser() / "data", Path(generated).expanduser()):
        try:
            found = json.loads((folder / DATASET).read_text())
        except (OSError, ValueError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def warn_of_other_parts(config: DataConfig, real_fingerprint: str) -> None:
    """Say so if the model that drew the images may have seen the held-out or test images of this run."""
    assert config.generated is not None
    made_by = record_of(config.generated).get("made_by")
    trained_on = made_by.get("trained_on") if isinstance(made_by, dict) else None
    if trained_on and trained_on != real_fingerprint:
        warnings.warn(
            f"{config.generated} was drawn from a model that was trained on other images than these: if it saw those that "
            "are held out here, the choice of the best checkpoint is too optimistic, and if it saw the test images, so is "
            "every accuracy",
            stacklevel=2,
        )
