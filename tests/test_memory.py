"""Memory that is freed is there for the next step, without the system's help."""

import os
import subprocess
import sys

PROGRAM = """
import resource, sys, torch
from afa_dist import memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    memory.keep_freed_memory()
if sys.argv[1] == "given back":
    memory.give_back_freed_memory()
def step():
    for _ in range(5):
        torch.empty(int(sys.argv[2]) * 2**18).fill_(1.0)  # MiB
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, mib, **env):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM, how, str(mib)]
    return int(subprocess.run(command, env={**plain, **env}, check=True, capture_output=True, text=True).stdout)


def test_freed_memory_is_kept_unless_the_user_says_otherwise():
    kept, default, theirs = faults("kept", 48), faults("", 48), faults("kept", 48, MALLOC_TRIM_THRESHOLD_="1000000")
    assert kept < default / 4
    assert kept < theirs / 4


def test_freed_memory_is_given_back_where_work_is_uneven():
    assert faults("", 20) < faults("given back", 20) / 4
