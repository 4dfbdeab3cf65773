"""Pre-training, fine-tuning, a cross-entropy baseline and the evaluation of both.

python jobs/pipeline.py --config recipes/digits.yaml
"""

import sys

from afa_dist.cli.pipeline import main

if __name__ == "__main__":
    text = "All stages, beside a cross-entropy model. Every option may carry a stage's name: --pretrain.schedule.epochs 3."
    sys.exit(main("pipeline.py", text))
