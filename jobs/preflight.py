"""Whether a cluster is fit for runs.

RAY_ADDRESS=HOST:PORT python jobs/preflight.py --runs_dir /shared/runs --nodes 4
"""

import sys

from afa_dist.cli.preflighting import main

if __name__ == "__main__":
    sys.exit(main("preflight.py", "Look at a cluster before it is trusted with a run; exit code 2 if something is wrong."))
