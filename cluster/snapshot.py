"""The code of a run as it is when the run is submitted: a job that waits runs that, whatever is edited meanwhile."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

RECORD = "code.json"
"""In a snapshot: the commit it was made from, and a hash of what differed from it."""

_PARTS = ("afa_dist", "jobs", "cluster", "tune_spaces", "recipes", "pyproject.toml", "constraints.txt")
"""What there is to copy outside a checkout."""


def snapshot(store: Path, root: Path = ROOT) -> tuple[Path, list[str]]:
    """Copy the tracked files of the checkout at `root`, as they are now, below `store`; equal code is kept once.

    Returns the folder, and new files that git does not know yet and that are therefore not in it.
    """
    names = _tracked(root)
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0" + hashlib.sha256((root / name).read_bytes()).digest())
    folder = store / "code" / digest.hexdigest()[:16]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for name in names:
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, aside / name)
        diff = _git(root, "diff", "HEAD", "--binary")
        (aside / "local.diff").write_text(diff)
        (aside / RECORD).write_text(json.dumps(_record(root)) + "\n")
        try:
            aside.rename(folder)
        except OSError:  # another submission made it meanwhile
            shutil.rmtree(aside)
            if not folder.exists():
                raise
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard").split("\0")
    return folder, [name for name in new if name.endswith((".py", ".yaml"))]


def _tracked(root: Path) -> list[str]:
    names: Sequence[str] = [name for name in _git(root, "ls-files", "-z").split("\0") if name]
    if not names:
        found = [path for part in _PARTS for path in [root / part, *(root / part).rglob("*")]]
        names = [str(path.relative_to(root)) for path in found if path.is_file() and "__pycache__" not in path.parts]
    return sorted(name for name in names if (root / name).is_file())


def _record(root: Path) -> dict[str, str | None]:
    """As provenance.json has it."""
    diff = _git(root, "diff", "HEAD", "--", ".", ":!results")
    return {
        "commit": _git(root, "rev-parse", "HEAD").strip() or None,
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    }


def _git(root: Path, *arguments: str) -> str:
    """What git answers; nothing outside a checkout."""
    if not (root / ".git").exists():
        return ""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else ""
