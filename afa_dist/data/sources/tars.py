"""WebDataset: tar files of samples, each some members of one name: KEY.jpg and KEY.cls, or KEY.json with a label."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from afa_dist.data.decode import Encoded
from afa_dist.data.folders import SUFFIXES
from afa_dist.data.sources.base import Piece, Source
from afa_dist.errors import Problem, UserError

SPLITS = {"train": ("train",), "test": ("test", "val")}
"""What the name of a tar of each split holds."""

LABEL_KEYS = ("cls", "label", "class", "target")
"""Where a .json may have the label."""

MOST_PROBLEMS = 10


@dataclasses.dataclass(frozen=True)
class Member:
    """An image: where its bytes lie."""

    tar: Path
    name: str
    offset: int
    size: int


class Tars(Source):
    """Tars in the order of their names, samples in the order of each tar. Not compressed: rows are read where they lie."""

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        self._members: dict[str, list[Member]] = {}
        labels: dict[str, list[int]] = {}
        problems: list[Problem] = []
        digest = hashlib.sha256()
        for split, tars in tars_of(folder).items():
            self._members[split], labels[split] = [], []
            for tar in tars:
                try:
                    samples = list(_samples(tar, classes))
                except UserError as error:
                    problems += error.problems
                    continue
                self._members[split] += [member for member, _ in samples]
                labels[split] += [label for _, label in samples]
                digest.update(f"{tar.name} {tar.stat().st_size} {len(samples)}\n".encode())
        if problems:
            raise UserError(problems[:MOST_PROBLEMS])
        if not labels.get("train"):
            raise UserError.one("source", f"{folder} holds no training samples: tars with `train` in their name")
        most = max(max(found) for found in labels.values())
        self.classes = classes or tuple(str(number) for number in range(most + 1))
        self.labels = {split: np.array(found, dtype=np.int32) for split, found in labels.items()}
        self.identity = {"kind": "webdataset", "name": folder.name, "tars": digest.hexdigest()}

    def read(self, split: str, start: int, stop: int) -> Piece:
        found = []
        for member in self._members[split][start:stop]:
            with member.tar.open("rb") as file:
                file.seek(member.offset)
                found.append(Encoded(file.read(member.size), str(member.tar), member.name))
        return found


def tars_of(folder: Path) -> dict[str, list[Path]]:
    """The tars of each split, by what their names, or those of the folders they lie in, hold."""
    tars = sorted(path for path in folder.rglob("*.tar") if path.is_file())
    found = {
        split: [tar for tar in tars if any(word in str(tar.relative_to(folder)).lower() for word in words)]
        for split, words in SPLITS.items()
    }
    return {split: own for split, own in found.items() if own}


def _samples(tar: Path, classes: tuple[str, ...]) -> Iterator[tuple[Member, int]]:
    """Images of a tar, with their labels.

    Raises:
        UserError: it is not whole, compressed, or a sample has no image or no label.
    """
    sample: dict[str, tuple[Member, bytes]] = {}
    key = ""
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in archive:
                if not info.isfile():
                    continue
                name, _, extension = _split(info.name)
                if name != key and sample:
                    yield _sample(tar, key, sample, classes)
                    sample = {}
                key = name
                is_image = f".{extension}" in SUFFIXES
                content = b"" if is_image else _content(archive, info)
                sample[extension] = (Member(tar, info.name, info.offset_data, info.size), content)
            if sample:
                yield _sample(tar, key, sample, classes)
    except (tarfile.TarError, OSError, EOFError) as error:
        what = f"cannot be read as a tar ({error}); fetch it again, or unpack it if it is compressed"
        raise UserError.one(str(tar), what) from error


def _split(name: str) -> tuple[str, str, str]:
    """The key of a sample and the extension: the first dot of the file's name parts them, as WebDataset has it."""
    folder, slash, file = name.rpartition("/")
    key, dot, extension = file.partition(".")
    return folder + slash + key, dot, extension.lower()


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    return file.read() if file is not None else b""


def _sample(
    tar: Path, key: str, sample: Mapping[str, tuple[Member, bytes]], classes: tuple[str, ...]
) -> tuple[Member, int]:
    images = [member for extension, (member, _) in sample.items() if f".{extension}" in SUFFIXES]
    if not images:
        raise UserError.one(str(tar), f"sample {key} has no image; it has {', '.join(sample)}")
    label = _label(sample, classes)
    if label is None:
        what = f"sample {key} has no label: a .cls with a number{' or a class' if classes else ''}, or a .json with one"
        raise UserError.one(str(tar), what)
    if not 0 <= label < (len(classes) or 1_000_000):
        raise UserError.one(str(tar), f"label {label} of sample {key} is out of range; allowed: 0 to {len(classes) - 1}")
    return images[0], label


def _label(sample: Mapping[str, tuple[Member, bytes]], classes: tuple[str, ...]) -> int | None:
    found: object = None
    if "cls" in sample:
        found = sample["cls"][1].decode("utf-8", "replace").strip()
    elif "json" in sample:
        try:
            content = json.loads(sample["json"][1])
        except ValueError:
            return None
        found = next((content[key] for key in LABEL_KEYS if isinstance(content, dict) and key in content), None)
    if isinstance(found, str) and found in classes:
        return classes.index(found)
    try:
        return int(str(found))
    except ValueError:
        return None
