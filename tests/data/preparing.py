"""Preparing sets in tests."""

from afa_dist.cli.preparing import check
from afa_dist.config.preparing import PrepareRun
from afa_dist.runtime.placement import Placement
from afa_dist.runtime.prepare import prepare

HERE = Placement(0, False, 1)


def run_of(source, dest, **options):
    return PrepareRun(source=str(source), dest=str(dest), **options)


def prepared(source, dest, on_progress=lambda progress: None, **options):
    """Prepare a set here; returns its record."""
    return prepare(check(run_of(source, dest, **options)), HERE, on_progress)
