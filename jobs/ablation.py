"""A grid of pipelines over variants and seeds: what each part of the method brings, with its spread.

python jobs/ablation.py --config recipes/ablation-digits.yaml --ablation.parallel 2
python jobs/ablation.py --config recipes/digits.yaml --ablation.seeds 0,1,2
"""

import sys

from afa_dist.cli.ablation import main

if __name__ == "__main__":
    text = "Run a recipe's variants over several seeds; started again, it goes on where it stopped."
    sys.exit(main("ablation.py", text))
