"""More training images by a diffusion model: train it, then draw from it.

python jobs/generate.py train --config recipes/digits-edm.yaml
python jobs/generate.py sample --model runs/digits-edm --name digits-drawn --count 10000
"""

import sys

from afa_dist.cli.generating import main

if __name__ == "__main__":
    sys.exit(main("generate.py", "Train a diffusion model, and draw training images from it."))
