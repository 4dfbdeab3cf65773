"""The options of an export."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from afa_dist.address import fault_of, is_address
from afa_dist.config.fields import Section, setting
from afa_dist.errors import Problem

LICENCES = "its short name on the hub, such as apache-2.0, mit, cc-by-4.0"


@dataclasses.dataclass(kw_only=True, frozen=True)
class ExportRun(Section):
    """A folder to publish, made of a model and its evaluations (jobs/export.py)."""

    model: str = setting("", "run directory of a fine-tuning run, or an exported model; a folder or an address")
    evaluations: tuple[str, ...] = setting(
        (), "run directories of finished evaluations of this model (jobs/evaluate.py); folders or addresses"
    )
    folder: str = setting("", "folder to write: new, empty, or an export of the same weights, which is renewed")
    title: str = setting(
        "", "headline of the model card, and of the paper in RobustBench's record; empty = name of the folder"
    )
    authors: tuple[str, ...] = setting((), "who made the model")
    paper: str | None = setting(None, "address of the paper (https://...)")
    venue: str = setting("", "where the paper appeared, such as 'ICML 2026'; empty = unpublished")
    licence: str | None = setting(None, f"licence of the weights: {LICENCES}; none = the card says that none is granted")
    additional_data: bool = setting(
        False, "images beyond the data set's own training images took part in training (generated ones do not count)"
    )
    push_to_hub: str | None = setting(
        None, "USER/NAME: also put the folder there; the token is that of HF_TOKEN or of `hf auth login`"
    )
    private: bool = setting(False, "with push_to_hub: for you alone")

    def problems(self) -> Iterator[Problem]:
        for name, what in (
            ("model", "give the run directory of a fine-tuning run, or an exported folder"),
            ("evaluations", "give run directories of jobs/evaluate.py, with commas between them"),
            ("folder", "give the folder to write"),
        ):
            if not getattr(self, name):
                yield Problem(name, f"missing; {what}")
        for name, places in (("model", (self.model,)), ("evaluations", self.evaluations)):
            for fault in filter(None, map(fault_of, places)):
                yield Problem(name, fault)
        if len(set(self.evaluations)) < len(self.evaluations):
            yield Problem("evaluations", f"{', '.join(self.evaluations)} names one twice; name each once")
        if is_address(self.folder):
            yield Problem("folder", f"{self.folder} is an address; give a folder of this machine")
        yield from self._publication_problems()

    def _publication_problems(self) -> Iterator[Problem]:
        for name, text in (("title", self.title), ("venue", self.venue), ("authors", ", ".join(self.authors))):
            if not text.isprintable():
                yield Problem(name, f"{text!r} has line breaks or other signs that cannot be printed")
        if self.paper is not None and not re.fullmatch(r"https?://[^\s<>()\"']+", self.paper):
            yield Problem("paper", f"{self.paper!r} is not an address; write https://...")
        if self.licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.licence):
            yield Problem("licence", f"{self.licence!r} is not known; write {LICENCES}")
        if self.push_to_hub is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", self.push_to_hub):
            yield Problem("push_to_hub", f"{self.push_to_hub!r} is not a repository; write USER/NAME")
        if self.private and self.push_to_hub is None:
            yield Problem("private", "only means something with push_to_hub; give it too, or leave private out")
