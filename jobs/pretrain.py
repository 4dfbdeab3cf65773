"""AFA pre-training of a feature extractor.

python jobs/pretrain.py --config recipes/digits.yaml --name mine --attack.eps 0.25
"""

import sys

from afa_dist.cli.training import main
from afa_dist.config import PretrainRun

if __name__ == "__main__":
    sys.exit(main(PretrainRun, "pretrain", "pretrain.py", "AFA pre-training of a feature extractor."))
