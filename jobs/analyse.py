"""A classifier from several sides: features, smoothness, corruptions, saliency, a curve over eps, calibration.

python jobs/analyse.py --model runs/mine-classifier --threat.eps 0.2
"""

import sys

from afa_dist.cli.analysing import main

if __name__ == "__main__":
    sys.exit(main("analyse.py", "Look at a classifier from several sides, clean and under attack."))
