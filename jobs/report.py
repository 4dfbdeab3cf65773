"""One page about a model, or about several side by side: figures, curves, features, examples, and where they come from.

python jobs/report.py runs/digits
python jobs/report.py runs/mine-measured runs/other-measured --out compare.html
"""

import sys

from afa_dist.cli.reporting import main

if __name__ == "__main__":
    sys.exit(main("report.py", "Write one self-contained page about one or more runs."))
