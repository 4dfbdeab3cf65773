"""What the commands that make sets of images have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from afa_dist.cli import recipes
from afa_dist.cli.console import EvaluationProgress
from afa_dist.cli.job import where_of
from afa_dist.cli.words import counted, percent, say
from afa_dist.config import SetRun
from afa_dist.errors import UserError
from afa_dist.runtime.cluster import preview, session
from afa_dist.runtime.set_checks import PreparedSet
from afa_dist.training.run_dir import RunDirectory


def with_recorded_data(values: Mapping[str, Any], option: str) -> dict[str, Any]:
    """Lay `values` over the real images that are recorded with the set that `option` names, if any are."""
    folder = values.get(option)
    if not isinstance(folder, str) or not folder:
        return dict(values)
    directory = RunDirectory.at(folder)
    try:
        # Others may have a config.yaml as well.
        recorded = directory.read_config().get("data") if directory.starts() else None
    except UserError:
        recorded = None
    return recipes.merge({"data": recorded} if isinstance(recorded, Mapping) else {}, values)


def describe_shards(run: SetRun, candidates: int) -> None:
    """Say where the work would be done, and where its result would be."""
    shards = -(-candidates // run.shard_size)
    share = f", of which {len(run.shards_of(shards))} in this start" if run.shard else ""
    say(f"runs {preview(run.scaling)}, in {counted(shards, 'shard')}{share}")
    say(f"directory: {where_of(run)}")


def make_and_show(run: SetRun, prepared: PreparedSet[Any], name: str) -> None:
    """Make the set, with a bar called `name`, and show what came out."""
    from afa_dist.runtime.image_sets import make_set

    with session(run.scaling, gpu_share=run.gpu_share) as placement, EvaluationProgress(name) as progress:
        summary = make_set(prepared, placement, progress.show)
    if "shard" in summary:
        done = f"{counted(summary['shards'], 'shard')} of {summary['of']} done by shard {run.shard}"
        say(f"{done}; when all starts are done, the same command with --merge in place of --shard makes the set")
    else:
        show(run, summary)
    say(f"run directory: {where_of(run)}")


def show(run: SetRun, summary: Mapping[str, Any]) -> None:
    """A finished set."""
    least, most = min(summary["per_class"]), max(summary["per_class"])
    say(f"{summary['images']} images of {summary['drawn']} candidates, {least} to {most} of each class")
    if summary.get("agreement") is not None:
        say(f"the scorer sees the class that was meant in {percent(summary['agreement'])} of all candidates")
    if summary.get("nearest"):
        say(nearest_table(summary["nearest"]))
    folder = RunDirectory.of(run).path
    say(f"look at them: {folder / 'samples.png'}")
    say(f"train on them: --data.generated {folder} --data.generated_fraction 0.7")


def nearest_table(nearest: Mapping[str, Any]) -> Table:
    """How close the images come to real ones."""
    title = f"nearest neighbours of {nearest['images']} images (root mean square difference of pixels, 0 to 1)"
    table = Table("among", "median", "of real images", "close to one", "copies", title=title, title_justify="left")
    for name, words in (("train", "training images"), ("test", "test images")):
        found = nearest[name]
        close = f"{percent(found['closer'])} (usual: 1 %)"
        table.add_row(words, f"{found['median']:.4f}", f"{found['usual_median']:.4f}", close, str(found["copies"]))
    return table
