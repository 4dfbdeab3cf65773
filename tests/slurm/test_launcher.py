"""What the launcher says before anything is submitted. No Slurm is needed here, but where it is said."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.errors import UserError
from cluster.slurm.batch import executor_of, prefix_of
from cluster.slurm.closed import openness
from cluster.slurm.commands import gpus_of
from cluster.slurm.request import ContainerConfig, Request, minutes_of
from tests.slurm.desk import RECIPE, ROOT, SMALL

GOLDEN = Path(__file__).parent / "golden.txt"


def launcher(folder, *words):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(folder), "AFA_DIST_SITE": ""}
    command = [sys.executable, "-m", "cluster.slurm", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_dry_run_prints_script_and_command(tmp_path):
    options = ["--nodes", 2, "--gpus-per-node", 8, "--time", "24:00:00", "--partition", "gpu", "--mem", "64G"]
    done = launcher(tmp_path, "pretrain", *options, "--dry-run", "--", *RECIPE, *SMALL, "--name", "mine")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.replace(str(tmp_path), "HOME").replace(sys.executable, "PYTHON")
    shown = re.sub(r"[\w.-]+-runs-mine-[0-9a-f]{8}", "RUN", shown).replace(re.findall(r"job-name=(\S+)", shown)[0], "NAME")
    if not GOLDEN.exists():
        GOLDEN.write_text(shown)
    assert shown == GOLDEN.read_text()
    assert not list(tmp_path.iterdir())


def test_all_mistakes_are_told_at_once(tmp_path):
    words = ["--nodes", 0, "--time", "25:99", "--partition", "a b;c", "--gpu-per-node", 1, "--mem", "lots"]
    done = launcher(tmp_path, "pretrain", *words, "--dry-run", "--", "--config", "nowhere.yaml", "--attack.eps", "-1")
    assert done.returncode == 2
    for part in ("--gpu_per_node: is not an option; did you mean --gpus_per_node?", "nodes: 0 is not allowed"):
        assert part in done.stderr
    assert "nowhere.yaml cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
    words = ["--time", "25:99", "--mem", "lots", "--partition", "a b;c", "--config", "x.yaml", "--dry-run"]
    done = launcher(tmp_path, "pretrain", *words)
    said = ["time: '25:99' is not a time", "mem: 'lots' is not", "partition: 'a b;c' is not a name", "write it behind --"]
    assert done.returncode == 2
    assert [part for part in said if part not in done.stderr] == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly"], "'fly' is not a job; choose one of ablation, "),
        (["pretrain", "--site", "nowhere"], "'nowhere' is neither a file nor one of cluster/sites (example)"),
        (["pipeline", "--time", "5", "--array", "2", "--dry-run"], "add --chain"),
        (["logs"], "needs a run"),
        (["status", "nothing"], "nothing was submitted for 'nothing'"),
        (["status", "--fast"], "--fast: is not an option of status"),
    ],
)
def test_a_mistake(tmp_path, words, said):
    done = launcher(tmp_path, *words)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_times_are_read_as_slurm_reads_them():
    right = {"90": 90, "1:30": 2, "24:00:00": 1440, "2-12": 3600, "1-00:30": 1470, "0-00:00:01": 1, "10:00": 10}
    assert {text: minutes_of(text) for text in right} == right
    for text in ("25:99", "1:60:00", "1-24", "x", "", "-5", "0", "1:2:3:4", "1.5", "1-00:00:60"):
        assert minutes_of(text) is None, text


def test_gpus_are_counted_in_whatever_form_slurm_names_them():
    named = {"(null)": 0, "gpu:8": 8, "gpu:a100:4(S:0-1)": 4, "gpu:a100:4,gpu:v100:2,nvme:3": 6, "mps:8": 0}
    assert {text: gpus_of(text) for text in named} == named


WILD = st.text(alphabet="ab $`\"'\\;&|()<>*?!#~\n\t\r{}[]%=-./é\x00", max_size=30)


def test_no_text_of_a_user_reaches_the_shell_as_code():
    """Whatever is not refused stands in the script in such a way that bash reads it back as it was."""
    taken = []

    @settings(max_examples=1000, deadline=None, derandomize=True)
    @given(folder=WILD, comment=WILD, mount=WILD)
    def check(folder, comment, mount):
        with contextlib.suppress(UserError):
            container = ContainerConfig(kind="apptainer", image="/i.sif", mounts=(mount,))
            request = Request(time="5", folder=folder, extra=(f"comment={comment}",), container=container)
            taken.append(folder)
            script = executor_of(request, Path("/x") / folder, Path("/y") / folder, "run", nodes=1).script()
            lines = script.split("\n")
            assert f"#SBATCH --comment={shlex.quote(comment)}" in lines
            run = [line for line in lines if line.startswith(("export PYTHONPATH", "srun"))]
            read = f"{run[0]}\nsrun() {{ printf '%s\\0' \"$@\"; }}\n{run[1]}\nprintf '%s' \"$PYTHONPATH\""
            shown = subprocess.run(["bash", "-c", read], capture_output=True, text=True, check=True).stdout.split("\0")
            assert shown[-1] == str(Path("/y") / folder)
            assert shown[-2] == str(Path("/x") / folder)
            assert mount in prefix_of(request, Path("/x"), Path("/y"))

    check()
    assert len(taken) > 100


def test_a_folder_that_others_can_write_to_is_refused(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert openness(closed) == ""
    closed.chmod(0o770)
    assert "can be written to by others (mode 0770)" in openness(closed)
    (tmp_path / "shared").mkdir(mode=0o777)
    (tmp_path / "shared").chmod(0o777)
    inner = tmp_path / "shared" / "inner"
    inner.mkdir(mode=0o700)
    assert "others can put something in its place" in openness(inner)
    done = launcher(tmp_path, "status", "--folder", tmp_path / "closed")
    assert done.returncode == 2 and "chmod go-w" in done.stderr
    entered = subprocess.run(
        [sys.executable, "-P", "-m", "cluster.slurm.enter", str(closed)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert entered.returncode == 1 and "nothing is loaded from there" in entered.stderr
