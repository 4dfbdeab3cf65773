"""Kill small runs in many ways, on this machine, and see that nothing is lost.

python jobs/drill.py --rounds 9
python jobs/drill.py --ways process --runs_dir /mnt/shared/runs
"""

import sys

from afa_dist.cli.drill import main

if __name__ == "__main__":
    sys.exit(main("drill.py", "Kill small runs on purpose, start them again, and compare them with undisturbed ones."))
