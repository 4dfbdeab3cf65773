"""prepare_data.py inspect: what is in a set of images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table as TextTable

from afa_dist.address import without_options
from afa_dist.cli.arguments import parse
from afa_dist.cli.console import EvaluationProgress
from afa_dist.cli.job import resolve_alone, run_job
from afa_dist.cli.words import counted, say
from afa_dist.config.preparing import LookRun
from afa_dist.data.census import Census, tiles_of_one_size
from afa_dist.data.sheet import contact_sheet
from afa_dist.data.sources.base import Source
from afa_dist.data.sources.find import open_source
from afa_dist.errors import DamageFound, UserError
from afa_dist.files import write_aside, write_json
from afa_dist.memory import give_back_freed_memory
from afa_dist.report.blocks import Cell, Picture, Section, Strip, Table
from afa_dist.report.page import write_page
from afa_dist.runtime.placement import cores

DESCRIPTION = "See what is in a set of images: classes, sizes, damaged and repeated images."

SHEET, RECORD, REPORT = "sheet.png", "inspection.json", "report.html"


def main(words: Sequence[str], program: str) -> int:
    """Run the command; returns the exit code."""
    named = ["--source", *words] if words and not words[0].startswith("-") else list(words)
    return run_job(
        resolve_alone(LookRun),
        parse(LookRun, named, program=f"{program} PATH", description=DESCRIPTION),
        check=open_source,
        check_partly=lambda values: None,
        dry_run=describe,
        execute=execute,
    )


def describe(run: LookRun, source: Source) -> None:
    """Say what would be looked at."""
    counts = ", ".join(f"{len(labels)} {split}" for split, labels in source.labels.items())
    place = without_options(run.source)
    say(f"{source.identity['kind']} {place}".rstrip() + f": {counts} images, {counted(len(source.classes), 'class')}")


def execute(run: LookRun, source: Source) -> None:
    """Look at every image, show and write what was found.

    Raises:
        DamageFound: there are images that cannot be used.
    """
    give_back_freed_memory()
    describe(run, source)
    torch.set_num_threads(run.threads or cores())
    out = Path(run.out).expanduser() if run.out else Path(f"inspection-{source.identity.get('name') or run.kind}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError.one("out", f"{out} cannot be made ({error.strerror}); give another folder") from error
    census = Census(source)
    with EvaluationProgress("inspect") as progress:
        found = census.take(progress.counting("images", sum(map(len, source.labels.values()))))
    sheet = contact_sheet(tiles_of_one_size(census.tiles)) if any(census.tiles.values()) else None
    if sheet is not None:
        write_aside(out / SHEET, lambda aside: sheet.save(aside, "PNG"))
    write_json(out / RECORD, {"source": dict(source.identity), **found})
    show(found)
    try:
        write_page(out / REPORT, f"{without_options(run.source) or run.kind}: images", _sections(found, sheet))
        say(f"report: {out / REPORT}")
    except UserError as error:
        say(str(error))
    say(f"all figures: {out / RECORD}")
    damaged, images = (sum(part[key] for part in found["splits"].values()) for key in ("damaged", "images"))
    if damaged:
        raise DamageFound(f"{damaged} of {images} images cannot be used; what they are in must be mended or replaced")


ROWS = {
    "images": "images",
    "classes without any": "empty_classes",
    "sizes": "different_sizes",
    "damaged": "damaged",
    "same as one before": "repeated",
    "of these with another label": "other_label",
}


def _facts(found: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Words and what each split has of them."""
    splits = found["splits"].values()
    rows = [(words, [_words(part[key]) for part in splits]) for words, key in ROWS.items()]
    balance = [f"{min(part['per_class'])} to {max(part['per_class'])}" for part in splits]
    shared = [str(found["shared"]["images"]) if split == "test" else "" for split in found["splits"]]
    return [rows[0], ("of each class", balance), *rows[1:], ("also among the training images", shared)]


def _words(value: int | list[str]) -> str:
    return str(value) if isinstance(value, int) else str(len(value))


def show(found: Mapping[str, Any]) -> None:
    """For people at a terminal."""
    table = TextTable("", *found["splits"])
    for words, cells in _facts(found):
        table.add_row(words, *cells)
    say(table)
    for split, part in found["splits"].items():
        for problem in part["damaged_rows"][:5]:
            say(f"damaged ({split}): {problem}")
    if found["shared"]["images"]:
        pairs = ", ".join(f"test row {test} is training row {train}" for test, train in found["shared"]["rows"][:5])
        say(f"test images that are training images: {pairs}")


def _sections(found: Mapping[str, Any], sheet: Image.Image | None) -> list[Section]:
    splits = list(found["splits"])
    facts = [[Cell(words, words, head=True), *map(Cell, cells)] for words, cells in _facts(found)]
    counts = [
        [Cell(name, name, head=True), *(_count(found["splits"][split]["per_class"][label]) for split in splits)]
        for label, name in enumerate(found["classes"])
    ]
    named = [
        [Cell(split, split, head=True), Cell(problem)]
        for split in splits
        for problem in found["splits"][split]["damaged_rows"]
    ]
    sizes = [
        [Cell(size, size, head=True), *(_count(found["splits"][split]["sizes"].get(size, 0)) for split in splits)]
        for size in sorted({size for split in splits for size in found["splits"][split]["sizes"]})
    ]
    sections = [
        Section("set", "The set", tables=[Table("what was found", ["", *splits], facts)]),
        Section("classes", "Classes", tables=[Table("images of each class", ["class", *splits], counts)]),
        Section("sizes", "Sizes", tables=[Table("height x width, the most frequent ones", ["size", *splits], sizes)]),
        Section("damaged", "Damaged", tables=[Table("the first ones", ["split", "what"], named)] if named else []),
    ]
    if sheet is not None:
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG")
        uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        strip = Strip("the first training images of each class, a row a class", [Picture(uri, "contact sheet")])
        sections.insert(1, Section("images", "Images", strips=[strip]))
    return sections


def _count(value: int) -> Cell:
    return Cell(str(value), value)
