"""Features before and after AFA pre-training: test images, clean and attacked, in the plane of their two main directions.

    python benchmarks/features.py runs/digits/pretrain --count 300

Before: the weights that the run's seed draws. After: its best checkpoint. Both are attacked by PGD-20 on the AFA loss at
the training radius. Writes results/<data>/<norm>/features.json (alignment within and between classes, and of attacked
with clean images) and .png.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from afa_dist.attacks import Ball, attack_mode, pgd
from afa_dist.cli.specification import build
from afa_dist.config import PretrainRun
from afa_dist.config.fields import to_mapping
from afa_dist.data.catalogue import load_splits
from afa_dist.data.image_set import choose_evenly
from afa_dist.distributed import SlicedRandom, World
from afa_dist.files import write_json
from afa_dist.losses import afa_loss
from afa_dist.models.networks import ContrastiveNet
from afa_dist.models.norm import unit
from afa_dist.report.plots import scatter_pairs
from afa_dist.training.job import data_shape, make_step
from afa_dist.training.run_dir import RunDirectory

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory of a finished pre-training run")
    parser.add_argument("--count", type=int, default=300, help="test images, chosen evenly by class")
    parser.add_argument("--data-name", help="what to call the data in the record; default: the run's data.name")
    arguments = parser.parse_args()
    directory = RunDirectory(arguments.run)
    run = build(PretrainRun, yaml.safe_load((arguments.run / "config.yaml").read_text()))
    splits = load_splits(run.data)
    test = splits.test.subset(choose_evenly(splits.test.labels_N.numpy(), arguments.count, seed=0))
    x, y = test.images_NCHW.float() / 255, test.labels_N
    step = make_step(run, data_shape(splits), World())
    assert isinstance(step.net, ContrastiveNet)
    measured = {"before": features(step.net, x, y, run)}
    checkpoint = directory.checkpoints.best()
    assert checkpoint is not None
    step.net.load_state_dict(dict(checkpoint.weights))
    measured["after"] = features(step.net, x, y, run)

    start = json.loads((arguments.run / "provenance.json").read_text())["starts"][-1]
    record = {
        "data": arguments.data_name or run.data.name,
        "threat": {"norm": run.attack.norm, "eps": run.attack.eps},
        "test_images": len(test),
        "seed": run.seed,
        "method": to_mapping(run.method),
        "epochs": run.schedule.epochs,
        "cosine": {when: alignment(*pair, y) for when, pair in measured.items()},
        "date": datetime.date.today().isoformat(),
        **{name: start[name] for name in ("versions", "code", "hardware")},
    }
    base = ROOT / "results" / record["data"] / run.attack.norm / "features"
    base.parent.mkdir(parents=True, exist_ok=True)
    write_json(base.with_suffix(".json"), record)
    attack = f"{run.attack.norm} {run.attack.eps:.4g}"
    title = f"{record['data']}: features of {len(test)} test images; dots: clean, crosses: attacked at {attack}"
    panels = {when: (*plane(*pair), y) for when, pair in measured.items()}
    scatter_pairs(panels, test.classes, title, base.with_suffix(".png"))
    print(json.dumps(record["cosine"], indent=2))
    print(f"record: {base.relative_to(ROOT)}.json")
    return 0


def features(net: ContrastiveNet, x: torch.Tensor, y: torch.Tensor, run: PretrainRun) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-length penultimate features of the clean and of the attacked images, (N, F) each."""
    ball = Ball(run.attack.norm, run.attack.eps)
    random = SlicedRandom("features", run.seed, start=0, count=len(x))
    own = torch.arange(len(x))
    with attack_mode(net), torch.no_grad():
        keys = net.embed(x)

        def objective(x_adv: torch.Tensor) -> torch.Tensor:
            return afa_loss(net.embed(x_adv), keys, y, y, temperature=run.method.temperature, own_copy_A=own)

        x_adv = pgd(objective, x, ball, steps=20, step_size=ball.eps / 8, start=ball.random_start(x, random))
        return unit(net.encoder(x)), unit(net.encoder(x_adv))


def alignment(clean: torch.Tensor, adv: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """Mean cosines: of clean images within and between classes, of an attacked image with its own clean one, and of
    attacked with other clean images within and between classes."""
    same, other = y[:, None] == y, ~torch.eye(len(y), dtype=torch.bool)
    within, between = clean @ clean.T, adv @ clean.T
    means: dict[str, Any] = {
        "clean, same class": within[same & other].mean(),
        "clean, other class": within[~same].mean(),
        "attacked with its clean version": (clean * adv).sum(1).mean(),
        "attacked with clean, same class": between[same & other].mean(),
        "attacked with clean, other class": between[~same].mean(),
    }
    return {name: round(float(value), 4) for name, value in means.items()}


def plane(clean: torch.Tensor, adv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both projected on the two main directions of the clean features (PCA), (N, 2) each."""
    mean = clean.mean(dim=0)
    _, _, directions = torch.linalg.svd(clean - mean, full_matrices=False)
    return (clean - mean) @ directions[:2].T, (adv - mean) @ directions[:2].T


if __name__ == "__main__":
    sys.exit(main())
