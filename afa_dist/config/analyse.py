"""The specification of an analysis: what is measured of a classifier beside its accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from afa_dist.address import fault_of
from afa_dist.config.attack import ThreatConfig
from afa_dist.config.base import BaseRun
from afa_dist.config.data_section import DataConfig
from afa_dist.config.fields import section, setting
from afa_dist.errors import Problem

PARTS = ("features", "lipschitz", "corruptions", "saliency", "curve", "calibration", "embedding")
"""What an analysis can measure, in the order in which it does."""

NEED_FEATURES = ("features", "embedding")
"""Parts that look at penultimate features, which only networks of ours show."""

ALL = "all"
"""All parts that the network allows."""


@dataclasses.dataclass(kw_only=True, frozen=True)
class AnalyseRun(BaseRun):
    """A look at a classifier from several sides (jobs/analyse.py)."""

    name: str = setting(
        "analysis", "name of the analysis; its directory is runs_dir/name; by default the model's with -analysis behind it"
    )
    model: str = setting(
        "", "run directory of a fine-tuning run, or an exported model (a folder or an address), timm:NAME, module:function"
    )
    data: DataConfig = section(DataConfig, "which images; by default those the model was trained with")
    threat: ThreatConfig = section(ThreatConfig, "the attack's ball; by default the one the model was trained with")
    images: int = setting(
        512,
        "test images, chosen evenly by class; the choice depends on the data alone, so that models can be compared",
        ge=20,
    )
    steps: int = setting(20, "steps of PGD, each 2.5 eps / steps long", ge=1)
    parts: tuple[str, ...] = setting(
        (ALL,), f"what to measure: {', '.join(PARTS)}, or {ALL} (that the network allows); more can be added later"
    )
    pretrained: str = setting(
        "",
        "pre-training run whose projected features are measured too; by default the one that the model's own run started "
        "from",
    )
    corruptions_path: str = setting(
        "", "folder of CIFAR-C files (gaussian_noise.npy, ..., labels.npy), used in place of corruptions made here"
    )
    batch_size: int = setting(250, "images in the network at once; less needs less memory", ge=1)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for option in ("model", "pretrained"):
            if fault := fault_of(getattr(self, option)):
                yield Problem(option, fault)
        if self.threat.eps == 0:
            yield Problem("threat.eps", "0 leaves nothing to analyse; give a radius above 0, such as 8/255")
        if self.scaling.most > 0:
            what = f"{self.scaling.workers} is not possible: an analysis runs in this process; leave it out, or use 0"
            yield Problem("scaling.workers", what)
        for name in self.parts:
            if name not in (*PARTS, ALL):
                yield Problem("parts", f"{name!r} is not known; choose of: {', '.join((*PARTS, ALL))}")
        if not self.parts:
            yield Problem("parts", f"names nothing to measure; choose of: {', '.join((*PARTS, ALL))}")

    @property
    def asked(self) -> list[str]:
        """The parts asked for, in order."""
        return [part for part in PARTS if part in self.parts or ALL in self.parts]
