"""The specifications of work in shards, of an evaluation and of a pipeline."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Literal

from afa_dist.address import fault_of
from afa_dist.config.attack import ThreatConfig
from afa_dist.config.attack_names import FAST, VALID_ATTACKS, meant, parse_attack, single_attacks
from afa_dist.config.base import BaseRun
from afa_dist.config.data_section import DataConfig
from afa_dist.config.fields import section, setting
from afa_dist.config.training import FinetuneRun, PretrainRun
from afa_dist.errors import Problem


@dataclasses.dataclass(kw_only=True, frozen=True)
class ShardedRun(BaseRun):
    """Work that is cut into shards, each kept when it is finished, which may be shared by the elements of a job array."""

    shard: str = setting(
        "", "i/n: work on every n-th shard from the i-th on (1 to n) and stop: for job arrays, whose last word is merge"
    )
    merge: bool = setting(False, "put together what starts with shard i/n left in the run directory; computes no shard")
    time_limit: float = setting(
        0.0, "seconds after which the job stops cleanly (exit code 75); the same command goes on; 0 = none", ge=0
    )
    gpu_share: float = setting(1.0, "part of a GPU that each Ray worker takes: 0.5 puts two on one", gt=0, le=1)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.shard and parse_share(self.shard) is None:
            yield Problem("shard", f"{self.shard!r} is not known; write i/n, such as 1/4, the first of four")
        if self.shard and self.merge:
            yield Problem("merge", "comes after all starts with shard; leave one of them out")

    def shards_of(self, count: int) -> list[int]:
        """The numbers of the shards to work on, of `count`."""
        first, step = parse_share(self.shard) or (1, 1)
        return list(range(first - 1, count, step))


def parse_share(text: str) -> tuple[int, int] | None:
    """Read i/n with 1 <= i <= n; None for all else."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    return (int(match[1]), int(match[2])) if match and 1 <= int(match[1]) <= int(match[2]) else None


DEFAULT_ATTACKS = ("pgd-20", "pgd-50x10")


@dataclasses.dataclass(kw_only=True, frozen=True)
class EvaluateRun(ShardedRun):
    """Measurement of a classifier, clean and under attack (jobs/evaluate.py)."""

    model: str = setting(
        "",
        "what to measure: run directory of a fine-tuning run or an exported model (a folder or an address), timm:NAME, or "
        "package.module:function, which gives a torch module from pixels in [0, 1] to logits",
    )
    data: DataConfig = section(DataConfig, "which images; by default those the model was trained with")
    part: Literal["test", "held_out"] = setting(
        "test", "images to measure on: test, or the held-out training images (to compare recipes without the test images)"
    )
    threat: ThreatConfig = section(ThreatConfig, "the attack's ball; by default the one the model was trained with")
    attacks: tuple[str, ...] = setting(
        DEFAULT_ATTACKS,
        f"attacks, cheapest first, each on the images still standing: {VALID_ATTACKS}",
    )
    fast: bool = setting(False, "in place of attacks: APGD-CE and APGD-T, half of AutoAttack and not called by its name")
    shard_size: int = setting(
        500,
        "images whose results are kept together, attack by attack; PGD results do not depend on it, AutoAttack's random "
        "numbers do",
        ge=1,
    )
    batch_size: int = setting(
        250, "images attacked at once; less needs less memory; AutoAttack's random numbers depend on it", ge=1
    )

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if fault := fault_of(self.model):
            yield Problem("model", fault)
        if self.data.generated is not None:
            yield Problem("data.generated", f"{self.data.generated}: accuracy is measured on real images; leave it out")
        if self.fast and self.attacks != DEFAULT_ATTACKS:
            yield Problem("fast", f"stands for attacks {', '.join(FAST)}; leave out attacks or fast")
        yield from self._attack_problems()

    def _attack_problems(self) -> Iterator[Problem]:
        attacks = list(single_attacks(self.attacks))
        if len(set(attacks)) < len(attacks):
            yield Problem("attacks", f"{', '.join(self.attacks)} names an attack twice; name each once")
        for name in attacks:
            if parse_attack(name) is None:
                yield Problem("attacks", f"{name!r} is not known{meant(name)}; write {VALID_ATTACKS}")

    @property
    def single_attacks(self) -> list[str]:
        """The attacks to run, in order, none of them a group."""
        return list(single_attacks(FAST if self.fast else self.attacks))


@dataclasses.dataclass(kw_only=True, frozen=True)
class PipelineRun(BaseRun):
    """The stages of a recipe after one another (jobs/pipeline.py); one without pre-training trains from scratch."""

    pretrain: PretrainRun | None = section(lambda: None, "contrastive pre-training, or none")
    finetune: FinetuneRun = section(lambda: FinetuneRun(mode="full"), "the classifier")
    baseline: FinetuneRun | None = section(lambda: None, "a model to compare with, or none")
    evaluate: EvaluateRun = section(EvaluateRun, "the measurement of both")
