"""Memory that is freed is there for the next step, without the system's help."""

import os
import subprocess
import sys

PROGRAM = """
import resource, sys, torch
from afa_dist.training.execution import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    for _ in range(5):
        torch.empty(12 * 2**20).fill_(1.0)  # 48 MiB
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, **env):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(command, env={**plain, **env}, check=True, capture_output=True, text=True).stdout)


def test_freed_memory_is_kept_unless_the_user_says_otherwise():
    kept, given_back, theirs = faults("kept"), faults("given back"), faults("kept", MALLOC_TRIM_THRESHOLD_="1000000")
    assert kept < given_back / 4
    assert kept < theirs / 4
