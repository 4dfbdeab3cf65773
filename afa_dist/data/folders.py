"""Trees of image files: a folder for each class, and Tiny-ImageNet's own layout.

Order is by class, then by file name, both compared as plain strings: what a file system lists first does not matter.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from afa_dist.data.decode import Encoded, decode_images
from afa_dist.data.image_set import ImageSet, choose_rows, label_problems
from afa_dist.errors import Problem, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
"""What counts as an image, in capitals as well; other files and hidden ones are passed over."""

TEST_FOLDERS = ("test", "val", "valid")
"""Where test images may be, in this order."""

SHOWN = 5
"""Names listed in one message."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """Files of one split that are still to be decoded, with their labels, in order."""

    files: list[Path]
    labels_N: np.ndarray
    classes: tuple[str, ...]
    where: Path


def load_tree(folder: Path, split: str, limit: int = 0, image_size: int = 0) -> ImageSet:
    """Read train/CLASS/IMAGE, or the same under test/, val/ or valid/ (the first that has folders in it).

    Classes are the folders of train/, whichever split is read. Links are followed; folders in class folders are not.

    Raises:
        UserError: a split missing, a class without training images or with one, a test class that train/ lacks,
            images that do not decode or, without image_size, of different sizes.
    """
    return _load(list_tree(folder, split), split, limit, image_size)


def load_tiny_imagenet(folder: Path, split: str, limit: int = 0, image_size: int = 0) -> ImageSet:
    """Read Tiny-ImageNet as it unpacks: train/WNID/images/ and, as test split, val/ with its val_annotations.txt.

    Its test/ has no labels. Classes are those of wnids.txt, sorted, and carry their first name in words.txt if there is
    one. Always in colour: some of its photographs are grey.

    Raises:
        UserError: files or folders missing, annotations that do not fit the images, and as for `load_tree`.
    """
    listing = list_tiny_imagenet(folder, split)
    return _load(listing, split, limit, image_size, colour=True)


def list_tiny_imagenet(folder: Path, split: str) -> Listing:
    """Files of a split of Tiny-ImageNet; see `load_tiny_imagenet`."""
    wnids = sorted({line.strip() for line in _lines(folder / "wnids.txt")} - {""})
    if not wnids:
        raise UserError.one(str(folder / "wnids.txt"), "names no classes; unpack Tiny-ImageNet again")
    list_split = _list_tiny_train if split == "train" else _list_tiny_val
    return dataclasses.replace(list_split(folder, wnids), classes=_class_names(folder / "words.txt", wnids))


def _load(listing: Listing, split: str, limit: int, image_size: int, *, colour: bool = False) -> ImageSet:
    problems = list(label_problems(listing.labels_N, listing.classes, str(listing.where), training=split == "train"))
    if problems:
        raise UserError(problems)
    rows = choose_rows(listing.labels_N, limit)

    def encoded(position: int) -> Encoded:
        path = listing.files[rows[position]]
        return Encoded(path, str(path))

    images = decode_images(len(rows), encoded, image_size, colour=colour)
    return ImageSet(images, torch.from_numpy(listing.labels_N[rows]), listing.classes)


def list_tree(folder: Path, split: str) -> Listing:
    """Files of a split of a tree; see `load_tree`."""
    train = folder / "train"
    classes = _folders(train) if train.is_dir() else []
    if not classes:
        hint = "give the folder that train and test lie in"
        if (folder / "wnids.txt").is_file():
            hint = "it looks like Tiny-ImageNet: use data.name tiny-imagenet"
        raise UserError.one(str(folder), f"holds no train folder with a folder for each class; {hint}")
    if split == "train":
        return _listing(train, classes, lambda name: train / name, every_class=True)
    test = _test_folder(folder)
    present = set(_folders(test))
    if unknown := sorted(present - set(classes)):
        raise UserError.one(str(test), f"has classes that {train} lacks: {_some(unknown)}; rename or remove them")
    return _listing(test, classes, lambda name: test / name if name in present else None, every_class=False)


def _test_folder(folder: Path) -> Path:
    for name in TEST_FOLDERS:
        # Published test parts often have no labels: a flat folder of images is passed over.
        if (folder / name).is_dir() and _folders(folder / name):
            return folder / name
    names = ", ".join(TEST_FOLDERS)
    raise UserError.one(str(folder), f"holds no test images: a folder for each class in one of {names}")


def _list_tiny_train(folder: Path, wnids: Sequence[str]) -> Listing:
    train = folder / "train"
    if not train.is_dir():
        raise UserError.one(str(folder), "holds no train folder; unpack Tiny-ImageNet again")
    if unknown := sorted(set(_folders(train)) - set(wnids)):
        raise UserError.one(str(train), f"has classes that wnids.txt does not list: {_some(unknown)}; add or remove them")
    return _listing(train, wnids, lambda wnid: train / wnid / "images", every_class=True)


def _list_tiny_val(folder: Path, wnids: Sequence[str]) -> Listing:
    val, annotations = folder / "val", folder / "val" / "val_annotations.txt"
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    present = set(_images(val / "images"))
    labels: dict[str, int] = {}
    problems = []
    for number, line in enumerate(_lines(annotations), start=1):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0].strip()
        if wnid not in label_of:
            problems.append(f"line {number} gives {name} the class {wnid!r}, which wnids.txt does not list")
        elif name not in present:
            problems.append(f"line {number} names {name}, which is not in {val / 'images'}")
        elif labels.setdefault(name, label_of[wnid]) != label_of[wnid]:
            problems.append(f"line {number} gives {name} a second class")
    if not problems and (unlabelled := sorted(present - labels.keys())):
        problems.append(f"has no line for {_some(unlabelled)}")
    if problems:
        more = f" ({len(problems) - SHOWN} more lines are wrong)" if len(problems) > SHOWN else ""
        found = [Problem(str(annotations), problem + "; unpack Tiny-ImageNet again") for problem in problems[:SHOWN]]
        raise UserError([*found[:-1], Problem(found[-1].where, found[-1].what + more)])
    order = sorted(labels, key=lambda name: (labels[name], name))
    labels_N = np.array([labels[name] for name in order], dtype=np.int64)
    return Listing([val / "images" / name for name in order], labels_N, tuple(wnids), val)


def _listing(where: Path, classes: Sequence[str], place: Callable[[str], Path | None], *, every_class: bool) -> Listing:
    """Images of each class in the folder that `place` gives for it; every_class: none may be without."""
    files: list[Path] = []
    labels: list[int] = []
    empty: list[str] = []
    for label, name in enumerate(classes):
        folder = place(name)
        images = [folder / image for image in _images(folder)] if folder is not None and folder.is_dir() else []
        if not images:
            empty.append(name)
        files.extend(images)
        labels.extend([label] * len(images))
    if empty and every_class:
        what = f"has no images of {_some(empty)} ({' '.join(SUFFIXES)}; folders further down are not searched)"
        raise UserError.one(str(where), f"{what}; add images or remove the class")
    return Listing(files, np.array(labels, dtype=np.int64), tuple(classes), where)


def _class_names(words: Path, wnids: Sequence[str]) -> tuple[str, ...]:
    """The first name of each class; the wnid where there is none, and added where two classes share a name."""
    names = dict.fromkeys(wnids, "")
    for line in _lines(words) if words.exists() else ():
        wnid, _, synonyms = line.partition("\t")
        if wnid in names:
            names[wnid] = synonyms.split(",")[0].strip()
    shared = Counter(names.values())
    return tuple(wnid if not name else name if shared[name] == 1 else f"{name} ({wnid})" for wnid, name in names.items())


def _folders(place: Path) -> list[str]:
    return sorted(entry.name for entry in _visible(place) if entry.is_dir())


def _images(place: Path) -> list[str]:
    # A link to nowhere counts, so that it is reported when it is read.
    return sorted(e.name for e in _visible(place) if e.name.lower().endswith(SUFFIXES) and not e.is_dir())


def _visible(place: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise UserError.one(str(place), f"cannot be read ({error.strerror}); data.path must hold it") from error


def _lines(path: Path) -> Iterable[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise UserError.one(str(path), f"cannot be read ({reason}); unpack Tiny-ImageNet again") from error


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
