"""Which kind of source lies at a place."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from afa_dist.address import is_address, without_options
from afa_dist.config.preparing import LookRun, PrepareRun
from afa_dist.data.generated import record_of
from afa_dist.data.parquet import remote_split_files, split_files
from afa_dist.data.remote import RemoteFolder
from afa_dist.data.set_place import RECORD, Address, Folder, cache_of
from afa_dist.data.sources.arrays import InMemory, Npz
from afa_dist.data.sources.base import Source
from afa_dist.data.sources.prepared_set import Prepared
from afa_dist.data.sources.tables import Tables
from afa_dist.data.sources.tars import Tars, tars_of
from afa_dist.data.sources.trees import Tree
from afa_dist.errors import UserError, named_by

KNOWN = (
    "cifar-10-batches-py, cifar-100-python, train_32x32.mat, wnids.txt (Tiny-ImageNet), train*.parquet, *train*.tar, "
    "train/CLASS/ with images, or an .npz"
)


def open_source(run: PrepareRun | LookRun) -> Source:
    """What `run` names.

    Raises:
        UserError: there is none, of no kind that is known, or with mistakes; all that are found.
    """
    if is_address(run.source):
        return _at_address(run)
    path = Path(run.source).expanduser().resolve()
    kind = run.kind if run.kind != "auto" else kind_of(path)
    if kind == "npz":
        return Npz(path, run.classes)
    if kind == "digits":
        return InMemory(kind, None)
    if not path.is_dir():
        raise UserError.one("source", f"{run.source} is not a folder that can be read; {kind} needs one")
    if kind == "prepared":
        return Prepared(Folder(path))
    if kind == "parquet":
        return Tables(path, run.classes)
    if kind == "webdataset":
        return Tars(path, run.classes)
    if kind in ("folder", "tiny-imagenet"):
        return Tree(kind, path)
    return InMemory(kind, path)


def _at_address(run: PrepareRun | LookRun) -> Source:
    """A prepared set, or Parquet files."""
    kind: str = run.kind
    folder = RemoteFolder(run.source, "source")
    if kind == "auto":
        kind = _kind_at(folder)
    if kind == "parquet":
        return Tables(folder, run.classes)
    if kind == "prepared":
        with named_by("source"):
            return Prepared(Address(run.source, cache_of(run, ""), "source"))
    what = f"{without_options(run.source)} is an address, where parquet and prepared can be read; {kind} needs a folder"
    raise UserError.one("source", what)


def _kind_at(folder: RemoteFolder) -> str:
    with contextlib.suppress(FileNotFoundError, ValueError, AttributeError):
        if json.loads(folder.read(RECORD)).get("form") == "arrow":
            return "prepared"
    if not remote_split_files(folder, "train"):
        what = f"{folder} holds neither a prepared set nor train*.parquet, or is not there"
        raise UserError.one("source", f"{what}; other formats are read in folders of this machine")
    return "parquet"


def kind_of(path: Path) -> str:
    """The kind of what lies at `path`.

    Raises:
        UserError: nothing does, or nothing that is known.
    """
    if path.suffix.lower() == ".npz":
        return "npz"
    if not path.exists():
        raise UserError.one("source", f"{path} does not exist")
    if (path / RECORD).exists() and record_of(str(path)).get("form") == "arrow":
        return "prepared"
    marks = {
        "cifar10": path / "cifar-10-batches-py",
        "cifar100": path / "cifar-100-python",
        "svhn": path / "train_32x32.mat",
        "tiny-imagenet": path / "wnids.txt",
    }
    found = [kind for kind, mark in marks.items() if mark.exists()]
    if path.is_dir():
        found += ["parquet"] * bool(split_files(path, "train"))
        found += ["webdataset"] * bool("train" in tars_of(path))
        has_classes = any(entry.is_dir() for entry in (path / "train").iterdir()) if (path / "train").is_dir() else False
        found += ["folder"] * bool(has_classes and not found)
    if not found:
        raise UserError.one("source", f"{path} holds {_instead(path) or f'nothing that is known here: {KNOWN}'}")
    if len(found) > 1:
        raise UserError.one("kind", f"{path} may be {' or '.join(found)}; say which")
    return found[0]


def _instead(path: Path) -> str:
    """What is there that would be known if it were a little different."""
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    if any(name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")) for name in names):
        return "compressed tars, in which nothing can be found without reading all of it; unpack them to .tar"
    if any(name.endswith(".tar") for name in names):
        return "tars whose names say neither train, val nor test; rename them"
    if path.name in ("train", "test", "val") and path.is_dir():
        return f"a split; give the folder that it lies in, {path.parent}"
    return ""
