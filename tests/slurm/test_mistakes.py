"""What Slurm cannot give is told before anything is submitted."""

import pytest

from tests.slurm.desk import RECIPE

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_bad_requests_fail_before_submission(desk):
    wrong = ["--partition", "mian", "--nodes", 3, "--time", "25:99"]
    done = desk.run("pretrain", *wrong, "--", "--config", "missing.yaml")
    assert done.returncode == 2
    assert "time: '25:99' is not a time" in done.stderr
    assert "missing.yaml cannot be read" in done.stderr
    done = desk.run("pretrain", "--partition", "mian", "--", "--config", "missing.yaml")
    assert done.returncode == 2
    assert "partition: 'mian' is not known; did you mean main? (there are: main, short, urgent)" in done.stderr
    wrong = ["--partition", "short", "--nodes", 2, "--time", "2:00:00", "--gpus-per-node", 1, "--mem", "1T"]
    done = desk.run("pretrain", *wrong, "--", *RECIPE)
    assert done.returncode == 2
    for part in ("nodes: 2 are more than partition short has (1)", "time: 2:00:00 is longer than", "gpus_per_node: 1 are"):
        assert part in done.stderr
    done = desk.run("pretrain", "--account", "nobody", "--", *RECIPE)
    assert done.returncode == 2
    assert "sbatch --test-only" in done.stderr and "account" in done.stderr
    assert not desk.run_dir("digits").exists()


def test_check_asks_slurm_and_submits_nothing(desk):
    before = desk.slurm("squeue", "-h", "-t", "all", "-o", "%i")
    done = desk.run("pretrain", "--check", "--", *RECIPE)
    assert done.returncode == 0, done.stderr
    assert "to start at" in done.stdout and "nothing was submitted" in done.stdout
    assert desk.slurm("squeue", "-h", "-t", "all", "-o", "%i") == before
