"""Search the options of a recipe for the front between clean and robust accuracy.

python jobs/tune.py --space tune_spaces/joint.py --config recipes/digits-joint.yaml --name front
python jobs/tune.py --space tune_spaces/pretrain.py --config recipes/digits.yaml --max-trials 12 --require "clean>=0.95"
"""

import sys

from afa_dist.cli.tuning import main

if __name__ == "__main__":
    text = "Search for options with Ray Tune; started again, it goes on where it stopped, with no finished trial lost."
    sys.exit(main("tune.py", text))
