"""Reading the command line, reporting mistakes, showing progress: what the jobs are made of."""

import os

SPIN_COUNT = "20000"

# OpenMP reads this when torch is imported, which the jobs do after this package. Threads that wait for the next operation
# spin for some 10 ms by default. With the cores to themselves 20,000 turns of that do nearly as well; on a busy machine the
# spinning ones keep those from running that they wait for (benchmarks/threads.py, docs/running.md).
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

# Arrow reads this when it is imported. Its own pool keeps a part of what it frees, more than 100 MB where large photographs
# are read from Parquet (benchmarks/preparing.py); the system's does as `memory.py` says.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
