"""A run directory and its mirror, brought to where the other is.

Who of the two is ahead is not a matter of steps: a run that went on elsewhere with other workers has other weights at the
same steps, and one may have been cut back to an earlier checkpoint. Each time that workers begin to train, provenance gets
a note with a token of its own, and the directory remembers those that were made in it. One start at a time works on a run,
so the directory is ahead if the last note was made in it, or if it has notes that follow all of the mirror's.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from afa_dist.training.history import PROVENANCE, notes_in
from afa_dist.training.mirror import CONFIG, METRICS, SUMMARY, Mirror
from afa_dist.training.run_dir import RunDirectory


def is_behind(directory: RunDirectory, mirror: Mirror) -> bool:
    """Whether the run has gone on elsewhere since it was worked on in the directory, or was never here."""
    here, there, made = notes_in(directory.starts()), notes_in(mirror.starts()), directory.made_here()
    if not directory.run_id or here[: len(there)] != there:
        return True
    following = here[len(there) :]
    last = following[0] if following else (there[-1] if there else None)
    return last not in made if last is not None else bool(mirror.steps())


def bring_down(mirror: Mirror, directory: RunDirectory, checkpoints: bool = True) -> int | None:
    """Bring a directory to where its mirror is, if it is behind, and replace damaged checkpoints by whole ones from there.

    checkpoints: if not, only the other files are fetched, and the directory stays behind.

    Returns the mirror's last step, if a checkpoint was fetched. Cut off at any point it can be called again, and the
    specification, by which the run is known, is there first. What is here and not of the run as it went on is set aside.
    """
    behind = is_behind(directory, mirror)
    if behind:
        mirror.get_file(CONFIG, directory.path)
    fetched = checkpoints and _bring_checkpoints(mirror, directory, behind)
    if behind and not _is_finished_alike(mirror, directory):
        names = mirror.get_files(directory.path, without=(CONFIG, PROVENANCE))
        directory.set_aside_files(keep={*names, CONFIG, PROVENANCE})
        mirror.get_file(PROVENANCE, directory.path)
    elif not behind:
        directory.add_starts(mirror.starts())
    return max(mirror.steps(), default=None) if fetched else None


def _is_finished_alike(mirror: Mirror, directory: RunDirectory) -> bool:
    """Whether the run has ended there, and all but checkpoints was fetched since: provenance came last."""
    summary = mirror.read_text(SUMMARY)
    names = ((SUMMARY, summary), (PROVENANCE, mirror.read_text(PROVENANCE) if summary else ""))
    return bool(summary) and all(directory.read_text(name) == text for name, text in names)


def _bring_checkpoints(mirror: Mirror, directory: RunDirectory, behind: bool) -> bool:
    store, there = directory.checkpoints, mirror.steps()
    here = store.steps()
    for step in here if behind else []:
        if step not in there:
            store.set_aside(step)
            what = f"{store.path(step)} is not of the run as it went on elsewhere"
            warnings.warn(f"{what}; it is set aside", stacklevel=4)
    whole = {step for step in here if store.is_whole(step)}
    newest = max(whole, default=-1)
    wanted = []
    for step in there:
        if step in here:
            same = not behind or store.manifest(step) == mirror.manifest(step)
            wanted += [] if same and step in whole else [step]
        elif behind or step > newest:
            wanted.append(step)
    if wanted and not behind and max(wanted) > max((row["step"] for row in directory.metrics()), default=0):
        mirror.get_file(METRICS, directory.path)  # this disk was set back: rows and checkpoints belong together
    fetched = [mirror.get_checkpoint(step, store) for step in wanted]
    return any(fetched)


def _held(step: int) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def copy_up(
    mirror: Mirror,
    directory: RunDirectory,
    *,
    anew: Collection[int] = (),
    check: Callable[[], None] = lambda: None,
    held: Callable[[int], AbstractContextManager[None]] = _held,
) -> list[int]:
    """Copy all that a directory has and its mirror lacks, the newest checkpoint first; delete there what is deleted here.
    Returns steps whose checkpoints are damaged here, which are not copied.

    anew: steps whose checkpoints were just saved; what the mirror has of them is older, perhaps damaged. check: raises if
    the mirror is not ours to change, and is called before each change. held: keeps the checkpoint of a step from being
    deleted here while it is copied.

    A checkpoint is deleted there when a newer one is whole there, never before: a copy that takes longer than the time
    between two checkpoints must not leave nothing. The summary, which says that a run is finished, comes last.
    """
    store = directory.checkpoints
    steps = store.steps()  # before the metrics are copied, which then have all rows of these
    check()
    mirror.put_files(directory.path, without=(SUMMARY,))
    there, damaged = set(mirror.steps()), []
    for step in reversed(steps):
        with held(step):
            manifest = store.manifest(step)
            if not manifest or (step in there and step not in anew and manifest == mirror.manifest(step)):
                continue
            if step not in anew and not store.is_whole(step):
                damaged.append(step)
            else:
                with contextlib.suppress(FileNotFoundError):  # it was deleted here after all
                    mirror.put_checkpoint(store.path(step), check)
                    there.add(step)
    kept = set(store.steps())
    newest = max(kept & there, default=-1)
    check()
    mirror.keep_only(kept | {step for step in there if step > newest})
    if not damaged:
        mirror.put_files(directory.path, only=SUMMARY)
    return damaged
