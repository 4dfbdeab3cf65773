"""The code of a run as it is when the run is submitted: a job that waits runs that, whatever is edited meanwhile."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from afa_dist.cli.words import say

ROOT = Path(__file__).resolve().parents[1]

RECORD = "code.json"
"""In a snapshot: the commit it was made from, and a hash of what differed from it."""

_PARTS = ("afa_dist", "jobs", "cluster", "tune_spaces", "recipes", "pyproject.toml", "constraints.txt")
"""What there is to copy outside a checkout."""


def snapshot(store: Path, root: Path = ROOT) -> tuple[Path, list[str]]:
    """Copy the tracked files of the checkout at `root`, as they are now, below `store`; equal code is kept once.

    Returns the folder, and new files that git does not know yet and that are therefore not in it.
    """
    (store / "code").mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".new.", dir=store / "code"))
    try:
        digest = hashlib.sha256()
        for name in _tracked(root):
            content = (root / name).read_bytes()  # once: it may be edited at this moment
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(content)
            shutil.copymode(root / name, aside / name)
        (aside / "local.diff").write_bytes(_git(root, "diff", "HEAD", "--binary"))
        (aside / RECORD).write_text(json.dumps(_record(root)) + "\n")
        folder = store / "code" / digest.hexdigest()[:16]
        with contextlib.suppress(OSError):  # there is the same, or another submission makes it at this moment
            aside.rename(folder)
        if not folder.exists():
            aside.rename(folder)  # for its reason
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    new = _names(root, "ls-files", "-z", "--others", "--exclude-standard")
    return folder, [name for name in new if name.endswith((".py", ".yaml"))]


def _tracked(root: Path) -> list[str]:
    names: Sequence[str] = _names(root, "ls-files", "-z")
    if not names:
        found = [path for part in _PARTS for path in [root / part, *(root / part).rglob("*")]]
        names = [str(path.relative_to(root)) for path in found if path.is_file() and "__pycache__" not in path.parts]
    return sorted(name for name in names if (root / name).is_file())


def _record(root: Path) -> dict[str, str | None]:
    """As provenance.json has it."""
    diff = _git(root, "diff", "HEAD", "--", ".", ":!results")
    return {
        "commit": _git(root, "rev-parse", "HEAD").decode().strip() or None,
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
    }


def _names(root: Path, *arguments: str) -> list[str]:
    return [os.fsdecode(name) for name in _git(root, *arguments).split(b"\0") if name]


def _git(root: Path, *arguments: str) -> bytes:
    """What git answers; nothing outside a checkout, or where it does not answer, which is told."""
    if not (root / ".git").exists():
        return b""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _tell(str(error))
        return b""
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        _tell(words[0])
        return b""
    return done.stdout


@functools.cache
def _tell(reason: str) -> None:
    """Once: a checkout may belong to another user, whom git does not trust."""
    say(f"warning: git does not say what the code is ({reason}); the job runs it as it is, and its record has no commit")
