"""Accuracy of a classifier, clean and attacked.

python jobs/evaluate.py --model runs/mine-classifier --name mine-measured --threat.eps 0.2
"""

import sys

from afa_dist.cli.evaluating import main

if __name__ == "__main__":
    sys.exit(main("evaluate.py", "Measure a classifier's accuracy, clean and under attack."))
