"""A trained classifier as a folder to publish: weights, model card, RobustBench's record.

python jobs/export.py --model runs/digits/finetune --evaluations runs/digits/evaluate/finetune --folder exported
"""

import sys

from afa_dist.cli.exporting import main

if __name__ == "__main__":
    sys.exit(
        main("export.py", "Write a classifier and its measured figures into a folder, and put it on a hub if asked to.")
    )
