"""The report of some runs, from their folders to a page."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from afa_dist.config import BaseRun, DataConfig
from afa_dist.data.catalogue import load_part
from afa_dist.data.image_set import ImageSet
from afa_dist.errors import UserError
from afa_dist.evaluation.checked_file import DamagedOutcome
from afa_dist.evaluation.outcome import ForeignOutcome
from afa_dist.report import analysed, measured, origins
from afa_dist.report.blocks import Section
from afa_dist.report.evaluations import Evaluation
from afa_dist.report.page import write_page
from afa_dist.report.sources import Entry, collect
from afa_dist.training.mirroring import put_files
from afa_dist.training.run_dir import RunDirectory


def write_report(entries: Sequence[Entry], path: Path, title: str) -> None:
    """Write the page about `entries`.

    Raises:
        UserError: the packages for it are missing.
    """
    write_page(path, title, sections_of(entries))


def sections_of(entries: Sequence[Entry]) -> list[Section]:
    """Everything that there is to show; sections without content included."""
    images = images_of(entries)
    return [
        measured.headline(entries),
        analysed.curves(entries),
        origins.training(entries),
        measured.classes(entries, images),
        _examples(entries, images),
        analysed.features(entries, images),
        analysed.lipschitz(entries),
        analysed.corruptions(entries),
        analysed.saliency(entries, images),
        origins.provenance(entries),
    ]


def report_of(run: BaseRun) -> Path | None:
    """Write `report.html` into the run directory of something that has just ended; None, with a warning, if that cannot be
    done: results are not lost for the want of a page."""
    directory = RunDirectory.of(run)
    path = directory.path / "report.html"
    try:
        entries = collect([str(directory.path)])
        write_report(entries, path, ", ".join(dict.fromkeys(entry.title for entry in entries)))
        put_files(run, directory, only=path.name)
    except Exception as error:  # whatever it is: the results are there, and must not be lost for the want of a page
        warnings.warn(f"no report was written: {error}", stacklevel=2)
        return None
    return path


def images_of(entries: Sequence[Entry]) -> dict[str, ImageSet]:
    """The images that models were measured on, by their fingerprint; those that cannot be read here are left out."""
    found: dict[str, ImageSet] = {}
    for entry in entries:
        for source in (entry.evaluation, entry.analysis):
            if source is None:
                continue
            config = source.directory.read_config()
            wanted = (source.summary if isinstance(source, Evaluation) else source.facts)["data_fingerprint"]
            if wanted in found:
                continue
            try:
                test = load_part(DataConfig(**config["data"]), config.get("part", "test"))
            except (UserError, KeyError, TypeError) as error:
                warnings.warn(f"images of {source.directory.place} cannot be shown: {error}", stacklevel=2)
                continue
            if test.fingerprint() == wanted:
                found[wanted] = test
            else:
                warnings.warn(f"the images of {source.directory.place} are others now, and not shown", stacklevel=2)
    return found


def _examples(entries: Sequence[Entry], images: dict[str, ImageSet]) -> Section:
    try:
        return measured.examples(entries, images)
    except (DamagedOutcome, ForeignOutcome, OSError, KeyError) as error:
        return Section("examples", "Adversarial images", warnings=[f"They cannot be shown: {error}"])
