"""Folders that others cannot enter, or at least cannot write to. Needs the standard library alone."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def openness(path: Path) -> str:
    """How others could change what is in `path`, and what helps; empty if they cannot. Folders above it count: they could
    be swapped.
    """
    found = path.stat()
    if found.st_uid != os.geteuid():
        return f"{path} is not yours"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be written to by others (mode {stat.S_IMODE(found.st_mode):04o}): chmod go-w {path}"
    for parent in path.resolve().parents:
        mode = parent.stat()
        swappable = mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode.st_mode & stat.S_ISVTX
        what = f"{path} lies in {parent}, where others can put something in its place"
        if mode.st_uid not in (0, os.geteuid()):
            return f"{what}: it belongs to another user, so choose another folder"
        if swappable:
            return f"{what}: chmod go-w {parent}, or choose another folder"
    return ""


def private_folder(path: Path) -> Path:
    """Make `path` with mode 0700, or take it as it is if it is ours and closed; its parent must not let others replace it.

    Raises:
        PermissionError: others could write there, or put something in its place.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a folder of this user that is closed to others")
    parent = path.parent.stat()
    if parent.st_mode & 0o022 and not parent.st_mode & stat.S_ISVTX:
        raise PermissionError(f"{path.parent} lets others put something in the place of {path}")
    return path
