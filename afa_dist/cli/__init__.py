"""Reading the command line, reporting mistakes, showing progress: what the jobs are made of."""

import os

SPIN_COUNT = "20000"

# OpenMP reads this when torch is imported, which the jobs do after this package. Threads that wait for the next operation
# spin for some 10 ms by default. With the cores to themselves 20,000 turns of that do nearly as well; on a busy machine the
# spinning ones keep those from running that they wait for (benchmarks/threads.py, docs/running.md).
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

# Arrow's memory pool reads this when it is imported: it gives back at once what it frees, which is more than 100 MB where
# large photographs are read from Parquet (with another value: MIMALLOC_PURGE_DELAY=1000 python benchmarks/preparing.py).
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "0")
