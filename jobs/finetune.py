"""A classifier on pre-trained features, or a baseline from scratch.

python jobs/finetune.py --config recipes/digits.yaml --name mine-classifier --init runs/mine
python jobs/finetune.py --config recipes/digits.yaml --stage baseline
"""

import sys

from afa_dist.cli.training import main
from afa_dist.config import FinetuneRun

if __name__ == "__main__":
    text = "Train a classifier, on pre-trained features (--init) or from scratch (--mode full)."
    sys.exit(main(FinetuneRun, "finetune", "finetune.py", text, stages=("finetune", "baseline")))
