"""What one GPU makes of the method, in one command of at most nine minutes.

    python benchmarks/gpu.py --data FOLDER --out OUT        # FOLDER: train*.parquet and test*.parquet of CIFAR-10
    python benchmarks/gpu.py --tiny --out OUT               # the same code on a CPU, small, in under two minutes

Needs torch, torchvision, numpy, pyarrow, safetensors and this package on PYTHONPATH, no Ray. Parts, in their order:

    correctness   loss and gradients in fp32, tf32 and bf16 against float64, on fresh inputs
    loss          time, memory and share of the measured matrix-product peak, for several ways to compute it
    step          images/s of an AFA pre-training step: eager, compiled, CUDA graphs; fp32, tf32, bf16
    training      CIFAR-10 from scratch: PGD-20 on held-out images after every epoch, against the clock

OUT/gpu.json is written after every part; the same command again goes on after the last finished part, and training after
its last checkpoint. A part that cannot run here says why in the record.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package need not be installed

import gpu_loss
import gpu_step
import gpu_training

from afa_dist.files import write_json
from afa_dist.training.provenance import provenance

Part = Callable[[argparse.Namespace, torch.device], dict[str, Any]]
PARTS: dict[str, Part] = {
    "correctness": gpu_loss.correctness,
    "loss": gpu_loss.speed,
    "step": gpu_step.throughput,
    "training": gpu_training.train,
}


def main() -> int:
    options = parse()
    device = torch.device("cuda" if torch.cuda.is_available() and not options.tiny else "cpu")
    if device.type == "cpu" and not options.tiny:
        print("no GPU here; --tiny runs the same code on the CPU", file=sys.stderr)
        return 2
    options.deadline = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "gpu.json"
    settings = {"tiny": options.tiny, "epochs": options.epochs}
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"settings": settings, "parts": {}}
    if record["settings"] != settings:
        print(f"{path} is of another run ({record['settings']}); choose another --out", file=sys.stderr)
        return 2
    for name in options.parts:
        if name in record["parts"] and not record["parts"][name].get("unfinished"):
            print(f"{name}: done before", flush=True)
            continue
        began = time.monotonic()
        try:
            found = PARTS[name](options, device)
        except Exception as error:  # the other parts are worth having: a lent GPU may not come again
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:500], "unfinished": True}
        record["parts"][name] = {**found, "part_seconds": round(time.monotonic() - began, 1)}
        record |= provenance(seed=0, data_fingerprint="see the part")
        write_json(path, record)
        print(json.dumps({name: record["parts"][name]}, indent=1), flush=True)
    print(f"record: {path}")
    return 1 if any("error" in part for part in record["parts"].values()) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and checkpoints")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 as Parquet; without it there is no training")
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--minutes", type=float, default=8.5, help="training stops then, with a checkpoint")
    parser.add_argument("--epochs", type=int, default=30, help="length of training, and of its learning-rate schedule")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
