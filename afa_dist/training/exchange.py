"""A run directory and its mirror, brought to where the other is.

Who of the two is ahead is not a matter of steps: a run that went on elsewhere with other workers has other weights at the
same steps, and one may have been cut back to an earlier checkpoint. Provenance notes every time that workers began to
train, and one start at a time works on a run; so a side that lacks such a note is behind.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from afa_dist.training.mirror import PROVENANCE, Mirror
from afa_dist.training.run_dir import RunDirectory, trained_in


def bring_down(mirror: Mirror, directory: RunDirectory) -> int | None:
    """Bring a directory to where its mirror is, if it is behind, and replace damaged checkpoints by whole ones from there.

    Returns the mirror's last step, if something was fetched that the directory did not have. Cut off at any point, it can
    be called again: what tells that the directory is behind is fetched last.
    """
    store, steps = directory.checkpoints, mirror.steps()
    behind = is_behind(directory, mirror)
    here = store.steps()
    if behind:
        for step in here:
            if step not in steps:
                store.set_aside(step)
                warnings.warn(
                    f"{store.path(step)} is not of the run as it went on elsewhere; it is set aside", stacklevel=3
                )
    newest = max((step for step in here if store.is_whole(step)), default=-1)
    fetched = False
    for step in steps:
        if step in here:
            same = not behind or store.manifest(step) == mirror.manifest(step)
            wanted = not (same and store.is_whole(step))
        else:
            wanted = behind or step > newest
        if wanted:
            mirror.get_checkpoint(step, store)
            fetched = True
    if behind:
        mirror.get_files(directory.path, without=(PROVENANCE,))
        mirror.get_file(PROVENANCE, directory.path)
    else:
        directory.add_starts(mirror.starts())
    return steps[-1] if fetched else None


def is_behind(directory: RunDirectory, mirror: Mirror) -> bool:
    """Whether the run has gone on since the directory was last what the mirror is now."""
    return not directory.run_id or not trained_in(mirror.starts()) <= directory.trained()


def _held(step: int) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def copy_up(
    mirror: Mirror,
    directory: RunDirectory,
    *,
    anew: Collection[int] = (),
    check: Callable[[], None] = lambda: None,
    held: Callable[[int], AbstractContextManager[None]] = _held,
) -> None:
    """Copy all that a directory has and its mirror lacks, the newest checkpoint first; delete there what is deleted here.

    anew: steps whose checkpoints were just saved; what the mirror has of them is older, perhaps damaged. check: raises if
    the mirror is not ours to change, and is called before each change. held: keeps the checkpoint of a step from being
    deleted here while it is copied.

    A checkpoint is deleted there when a newer one is whole there, never before: a copy that takes longer than the time
    between two checkpoints must not leave nothing.
    """
    store = directory.checkpoints
    steps = store.steps()  # before the metrics are copied, which then have all rows of these
    check()
    mirror.put_files(directory.path)
    there = set(mirror.steps())
    for step in reversed(steps):
        with held(step):
            manifest = store.manifest(step)
            if not manifest or (step in there and step not in anew and manifest == mirror.manifest(step)):
                continue
            if step in anew or store.is_whole(step):
                check()
                with contextlib.suppress(FileNotFoundError):  # it was deleted here after all
                    mirror.put_checkpoint(store.path(step))
                    there.add(step)
    kept = set(store.steps())
    newest = max(kept & there, default=-1)
    check()
    mirror.keep_only(kept | {step for step in there if step > newest})
