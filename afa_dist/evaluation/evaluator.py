"""A loaded model and its test set."""

from __future__ import annotations

from pathlib import Path

from afa_dist.attacks import Ball
from afa_dist.config import EvaluateRun
from afa_dist.data.catalogue import load_part
from afa_dist.data.image_set import ImageSet
from afa_dist.evaluation.shards import OnAttack, ShardResult, evaluate_shard
from afa_dist.models.export import load_classifier


class ShardEvaluator:
    """Evaluates any shard of a run; made once for each process that takes part.

    model: folder of the exported classifier. test: the run's test images, loaded when not given.
    """

    def __init__(self, run: EvaluateRun, model: Path, device: str, test: ImageSet | None = None) -> None:
        self.run = run
        self.test = test if test is not None else load_part(run.data, run.part)
        self.net = load_classifier(model).net.to(device)

    def evaluate(self, start: int, on_attack: OnAttack = lambda name, standing: None) -> ShardResult:
        """The shard whose first image is number `start`."""
        run = self.run
        ball = Ball(run.threat.norm, run.threat.eps)
        return evaluate_shard(self.net, self.test, start, run.shard_size, run.attacks, ball, run.seed, on_attack)
