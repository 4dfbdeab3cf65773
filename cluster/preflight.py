"""Whether a cluster is fit for runs: nodes, versions, storage, clocks, bandwidth, ports, token.

RAY_ADDRESS=HOST:PORT python -m cluster.preflight --runs_dir /shared/runs --nodes 4
python -m cluster.slurm preflight --nodes 4 --time 5 -- --runs_dir /shared/runs      # on nodes of Slurm
"""

import sys

from afa_dist.cli.preflighting import main

if __name__ == "__main__":
    sys.exit(
        main("cluster.preflight", "Look at a cluster before it is trusted with a run; exit code 2 if something is wrong.")
    )
