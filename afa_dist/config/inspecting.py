"""The specification of a look at a set of generated images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from afa_dist.config.data_section import DataConfig
from afa_dist.config.fields import Section, section, setting
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class InspectRun(Section):
    """What a set of generated images is worth, by a classifier that had no part in it (jobs/generate.py inspect)."""

    samples: str = setting("", "the set: run directory of generate.py sample, or a folder with train*.parquet")
    classifier: str = setting(
        "", "run directory of a fine-tuning run, or an exported model, that was not the scorer of the set"
    )
    data: DataConfig = section(DataConfig, "the real images; by default those that the set's model was trained on")
    splits: int = setting(10, "random halves of the real images whose distances are averaged", ge=2)
    seed: int = setting(0, "seed of the halves", ge=0)
    threads: int = setting(0, "CPU threads; 0 = the cores there are", ge=0)

    def problems(self) -> Iterator[Problem]:
        for name in ("samples", "classifier"):
            if not getattr(self, name):
                yield Problem(name, "missing; give the set of images and the classifier that looks at them")
        if self.data.generated is not None:
            yield Problem("data.generated", f"{self.data.generated}: the set to look at is named by samples; leave it out")
