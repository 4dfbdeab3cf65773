"""Runs on a real Slurm of two nodes: they end as runs do that nobody disturbed."""

import concurrent.futures
import json
import os
import signal
import subprocess

import psutil
import pytest
from safetensors.numpy import load

from tests.object_store import KEYS, ObjectStore
from tests.slurm.conftest import clean
from tests.slurm.desk import RECIPE, SMALL, Desk, here, weights

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SHORT = [*RECIPE, *SMALL, "--schedule.epochs", "60"]
"""A quarter of a minute on one core: enough to be struck."""

LONG = [*RECIPE, *SMALL, "--schedule.epochs", "180"]
"""About a minute, the least time limit there is; Slurm warns up to a minute early."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the short run comes to."""
    return weights(here(tmp_path_factory.mktemp("alone"), "pretrain", *SHORT, "--name", "alone") / "alone")


@pytest.fixture(scope="module")
def first(slurm, tmp_path_factory):
    """Jobs that do not mind each other, all at once."""
    desk = Desk(tmp_path_factory.mktemp("first"), clean(slurm.environment))
    double = [*RECIPE, *SMALL, "--schedule.epochs", "4", "--scaling.precision", "fp64"]
    wanted = {
        "two": ("pretrain", "--nodes", 2, "--", *double, "--name", "two"),
        "limited": ("pretrain", "--time", 1, "--signal-seconds", 15, "--", *LONG, "--name", "limited"),
        "one": ("pretrain", "--nodes", 2, "--nodelist", "c1,c2", "--", *double, "--name", "one"),
        "once": ("pretrain", "--time", 1, "--signal-seconds", 15, "--max-timeouts", 0, "--", *LONG, "--name", "once"),
    }
    with concurrent.futures.ThreadPoolExecutor(len(wanted)) as pool:
        jobs = dict(zip(wanted, pool.map(lambda words: desk.submit(*words)[0], wanted.values()), strict=True))
    return desk, jobs


def test_two_nodes_end_as_one_process_does(first, tmp_path):
    desk, jobs = first
    assert desk.wait(jobs["two"]) == ["COMPLETED"], desk.log(jobs["two"])
    double = [*RECIPE, *SMALL, "--schedule.epochs", "4", "--scaling.precision", "fp64"]
    alone = here(tmp_path, "pretrain", *double, "--name", "two", "--scaling.workers", "0")
    starts = json.loads((desk.run_dir("two") / "provenance.json").read_text())["starts"]
    assert starts[-1]["workers"] == [[0, 2]] or "2 workers" in desk.log(jobs["two"])
    for name, content in weights(alone / "two").items():
        expected, found = load(content), load(weights(desk.run_dir("two"))[name])
        for key, value in expected.items():
            assert abs(found[key] - value).max() < 1e-6, key
    for job in (jobs["two"], jobs["one"]):  # nothing of Ray is left on the nodes
        assert desk.wait(job) == ["COMPLETED"], desk.log(job)
        assert not [p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("SLURM_JOB_ID") == job]


def test_a_time_limit_leaves_no_trace(first, tmp_path):
    desk, jobs = first
    alone = here(tmp_path, "pretrain", *LONG, "--name", "limited")
    assert desk.wait(jobs["limited"]) == ["COMPLETED"], desk.log(jobs["limited"])
    assert set(desk.ends(jobs["limited"])[:-1]) == {"timeout"}, desk.events(jobs["limited"])
    assert weights(desk.run_dir("limited")) == weights(alone / "limited")


def test_time_limits_are_counted(first):
    desk, jobs = first
    assert desk.wait(jobs["once"]) == ["FAILED"], desk.log(jobs["once"])
    assert desk.ends(jobs["once"]) == ["timeout"]
    assert "not requeued: its time limit was reached, 1 times by now (max_timeouts 0)" in desk.log(jobs["once"])
    assert 0 < desk.step("once") < desk.step("limited")


def test_a_preempted_job_saves_and_goes_on_when_there_is_room(desk, undisturbed):
    (job,) = desk.submit("pretrain", "--nodelist", "c2", "--cpus-per-task", 8, "--", *SHORT, "--name", "p")
    desk.until(lambda: desk.step("p") > 10, "a checkpoint")
    urgent = desk.slurm("sbatch", "--parsable", "-p", "urgent", "-w", "c2", "-n8", "-o", "/dev/null", "--wrap", "sleep 5")
    desk.until(lambda: desk.ends(job), "the end of the first start")
    saved = desk.step("p")
    assert desk.wait(job) == ["COMPLETED"], desk.log(job)
    assert desk.wait(urgent.strip()) == ["COMPLETED"]
    assert desk.ends(job) == ["preemption", "done"]
    assert f"last saved at step {saved}" in desk.log(job)
    assert weights(desk.run_dir("p")) == undisturbed


def test_warnings_on_two_nodes_are_heeded_by_all(desk):
    """A signal by hand, then a preemption that takes one of the nodes; somebody reads the log all the while."""
    (job,) = desk.submit("pretrain", "--nodes", 2, "--cpus-per-task", 8, "--", *LONG, "--name", "s")
    reader = subprocess.Popen(
        desk.command("logs", "-f", "s"), cwd=desk.folder, env=desk.environment, stdout=subprocess.PIPE, text=True
    )
    desk.until(lambda: desk.step("s") > 5, "a checkpoint")
    desk.slurm("scancel", "--signal=USR2", job)
    for count, urgent in ((1, True), (2, False)):
        desk.until(lambda count=count: len(desk.ends(job)) == count, "the end of a start")
        saved = desk.step("s")
        desk.until(lambda saved=saved: f"last saved at step {saved}" in desk.log(job), "to go on")
        desk.until(lambda saved=saved: desk.step("s") > saved, "another checkpoint")
        if urgent:
            desk.slurm("sbatch", "-p", "urgent", "-w", "c2", "-n8", "-o", "/dev/null", "--wrap", "sleep 1")
    cancelled = desk.run("cancel", "s")
    assert cancelled.returncode == 0 and job in cancelled.stdout
    assert desk.wait(job) == ["CANCELLED"]
    assert desk.ends(job)[:2] == ["preemption", "preemption"]
    read, _ = reader.communicate(timeout=60)
    assert reader.returncode == 0
    assert set(desk.log(job).splitlines()) - set(read.splitlines()) <= {""}


def test_a_run_in_an_object_store(desk, tmp_path, undisturbed):
    """No node keeps anything of it: it is signalled, and goes on from the store."""
    store = ObjectStore(tmp_path)
    desk.environment |= KEYS
    address = store.address("runs")
    (job,) = desk.submit("pretrain", "--", *SHORT, "--runs_dir", address, "--name", "o")
    desk.until(lambda: any("/step-" in name for name in store.files("runs/o")), "a checkpoint")
    desk.slurm("scancel", "--signal=USR2", job)
    assert desk.wait(job) == ["COMPLETED"], desk.log(job)
    assert desk.ends(job) == ["preemption", "done"]
    first, second = (event["saved"] for event in desk.events(job) if "began" in event)
    assert first != second and not second.startswith("unknown")
    last = max(name.rpartition("/")[0] for name in store.files("runs/o") if name.startswith("checkpoints/step-"))
    for name, content in undisturbed.items():
        with store.filesystem().open_input_file(f"bucket/runs/o/{last}/{name}") as file:
            assert file.read() == content, name
    store.stop()


def test_a_node_whose_slurmd_is_killed(desk, slurm, undisturbed):
    (job,) = desk.submit("pretrain", "--", *SHORT, "--name", "n")
    desk.until(lambda: desk.step("n") > 5, "a checkpoint")
    node = desk.slurm("squeue", "-h", "-j", job, "-o", "%N").strip()
    slurm.kill_node(node)
    try:
        desk.until(lambda: len([e for e in desk.events(job) if "began" in e]) == 2, "the second start")
        assert desk.slurm("squeue", "-h", "-j", job, "-o", "%N").strip() != node
        assert desk.wait(job) == ["COMPLETED"], desk.log(job)
        assert desk.ends(job) == ["loss", "done"]
        assert weights(desk.run_dir("n")) == undisturbed
    finally:
        slurm.start_node(node)
    desk.until(lambda: dict(slurm.states())[node] == "IDLE", "the node")


def test_a_node_that_is_drained_is_left(desk, slurm):
    (job,) = desk.submit("pretrain", "--", *SHORT, "--name", "d")
    desk.until(lambda: desk.step("d") > 5, "a checkpoint")
    node = desk.slurm("squeue", "-h", "-j", job, "-o", "%N").strip()
    desk.slurm("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        desk.until(lambda: len([e for e in desk.events(job) if "began" in e]) == 2, "the second start")
        assert desk.slurm("squeue", "-h", "-j", job, "-o", "%N").strip() != node
        assert f"{node} is being drained" in desk.log(job)
        desk.slurm("scancel", job)
    finally:
        desk.slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
    desk.wait(job)


def test_an_array_with_a_killed_element(desk, trained_run):
    """Eight elements in two arrays, for Slurm takes five at most here; one is killed, and tried again alone. Another one,
    whose number in Slurm is that of its whole array, is told to go, and takes none of the others along.
    """
    model = str(trained_run.path)
    options = [
        "--model",
        model,
        "--attacks",
        "pgd-20",
        "--data.test_limit",
        "128",
        "--shard_size",
        "16",
        "--scaling.threads",
        "1",
    ]
    # With losses allowed, it would be requeued by itself.
    jobs = desk.submit("evaluate", "--array", 8, "--max-losses", 0, "--", *options, "--name", "e")
    assert len(jobs) == 3
    victim = []

    def killed():
        for process in psutil.process_iter(["cmdline"]):
            if "evaluate.py" in " ".join(process.info["cmdline"] or []) and "3/8" in process.info["cmdline"]:
                victim.extend([process.parent(), process])
        return bool(victim)

    desk.until(killed, "the third element")
    for process in victim:
        os.kill(process.pid, signal.SIGKILL)
    last = f"{jobs[0]}_4"
    desk.until(lambda: desk.events(last), "the fifth element")
    assert desk.slurm("scontrol", "-o", "show", "job", last).startswith(f"JobId={jobs[0]} ")
    desk.slurm("scancel", "--signal=USR2", last)
    desk.wait(jobs[-1])
    assert desk.ends(last) in (["preemption", "done"], ["done"])  # it may just have ended
    assert [desk.ends(f"{jobs[0]}_{number}") for number in (0, 1, 3)] == [["done"]] * 3
    assert "tried again" in desk.log(jobs[-1]), desk.log(jobs[-1])
    desk.until(lambda: (desk.run_dir("e") / "evaluation/summary.json").exists(), "the merged result", 180)
    status = desk.run("status", "e")
    assert status.returncode == 0 and "1 FAILED" in status.stdout and "finished" in status.stdout, status.stdout
    alone = here(desk.folder, "evaluate", *options, "--name", "f")
    found, expected = (json.loads((alone / name / "evaluation/summary.json").read_text()) for name in ("e", "f"))
    assert found["accuracies"] == expected["accuracies"]
