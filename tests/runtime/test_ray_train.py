"""Ray Train against its in-process twin, and the loss of a worker."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from afa_dist.config import (
    ClassifierAttackConfig,
    ContrastiveAttackConfig,
    DataConfig,
    EvaluateRun,
    FinetuneRun,
    MethodConfig,
    ModelConfig,
    OptimiserConfig,
    PretrainRun,
    ScalingConfig,
    ScheduleConfig,
    ThreatConfig,
    TrackingConfig,
    ValidationConfig,
)
from afa_dist.data.catalogue import load_splits
from afa_dist.errors import TrainingError, UserError
from afa_dist.runtime.cluster import session
from afa_dist.runtime.evaluate import evaluate
from afa_dist.runtime.evaluation_checks import check
from afa_dist.runtime.launch import launch
from afa_dist.training.run_dir import RunDirectory
from tests.data.preparing import prepared
from tests.data.test_generated_set import make_set

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]

RUN = PretrainRun(
    data=DataConfig(crop_padding=1),
    model=ModelConfig(width=8, norm="batch", projection_dim=16),
    method=MethodConfig(keys="both"),
    attack=ContrastiveAttackConfig(eps=0.1, steps=2, warmup=0.5),
    optimiser=OptimiserConfig(lr=0.05),
    schedule=ScheduleConfig(epochs=4, batch_size=128, warmup=0.25),
    validation=ValidationConfig(steps=3),
    scaling=ScalingConfig(workers=2, precision="fp64"),
    tracking=TrackingConfig(tensorboard=False, log_every_steps=5),
)


def run_in(folder, run=RUN, **changes):
    return dataclasses.replace(run, name="run", runs_dir=str(folder), **changes)


def go(run, workers=2):
    """Launch `run` on so many Ray workers, or here."""
    run = dataclasses.replace(run, scaling=dataclasses.replace(run.scaling, workers=workers, threads=1))
    rows = []
    with session(run.scaling) as placement:
        assert placement.workers == workers
        summary = launch(run, load_splits(run.data), placement, rows.append)
    return summary, rows, RunDirectory.of(run)


def test_two_ray_workers_end_with_the_metrics_of_one_process(ray_cluster, tmp_path):
    """In fp64: in fp32 the sign in the attack turns rounding into other adversarial images after some dozen steps.

    With generated images among the real ones. The process has all images in memory, the workers map those of prepared sets
    themselves.
    """
    generated = {form: str(make_set(tmp_path, form, form=form)) for form in ("parquet", "arrow")}
    data = dataclasses.replace(RUN.data, generated=generated["parquet"], generated_fraction=0.25)
    model = dataclasses.replace(RUN.model, normalise="none")  # a prepared set's statistics are those of held-out images too
    alone, _, here = go(run_in(tmp_path / "alone", data=data, model=model), workers=0)
    prepared("", tmp_path / "digits", kind="digits")
    mapped = dataclasses.replace(data, name="prepared", path=str(tmp_path / "digits"), generated=generated["arrow"])
    together, rows, there = go(run_in(tmp_path / "together", data=mapped, model=model))
    want, got = here.metrics(), there.metrics()
    assert len(want) == len(got) > 13
    for a, b in zip(want, got, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], abs=1e-4) if name != "phase" else a[name] == b[name], (a, b)
    assert together["best"] == pytest.approx(alone["best"], abs=1e-4)
    assert rows == got  # the driver saw every row, in order


def test_a_killed_worker_is_survived(ray_cluster, tmp_path):
    """SIGKILL to one of two workers in mid-run: the group restarts from the last checkpoint and finishes."""
    longer = dataclasses.replace(RUN.schedule, epochs=12)
    run = run_in(tmp_path, schedule=longer)
    directory = RunDirectory.of(run)
    killed = []

    def kill_one():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if len(directory.checkpoints.steps()) and len(directory.metrics()) >= 6:
                victims = train_workers()
                assert len(victims) == 2, victims
                os.kill(victims[1], signal.SIGKILL)
                killed.append(directory.metrics()[-1]["step"])
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill_one)
    killer.start()
    summary, _, _ = go(run)
    killer.join()
    assert killed
    assert killed[0] < summary["steps"] == 120
    steps = [(row["step"], row["phase"]) for row in directory.metrics()]
    assert steps == sorted(set(steps), key=lambda pair: (pair[0], pair[1] == "validation"))
    # The first step's row, then two rows of training and one of validation an epoch: no gap, no repeat.
    assert len(steps) == 1 + 12 * 3


def train_workers():
    """Processes of Ray Train's workers beneath this test process, by pid."""
    children = psutil.Process().children(recursive=True)
    return sorted(p.pid for p in children if "RayTrainWorker" in " ".join(p.cmdline()))


def test_workers_map_the_drivers_images(ray_cluster, digits):
    """Same images and labels, in memory that is not the worker's own."""
    import ray

    from afa_dist.runtime.sharing import share

    shared = share({"test": digits.test, "train": digits.train})

    @ray.remote
    def look(shared):
        images = shared.get()
        owned = [part.images_NCHW.numpy().flags.owndata for part in images.values()]
        base = images["test"].images_NCHW.data_ptr()
        for line in Path("/proc/self/maps").read_text().splitlines():
            first, end = (int(address, 16) for address in line.split()[0].split("-"))
            if first <= base < end:
                mapped = line
        return {name: part.fingerprint() for name, part in images.items()}, owned, mapped

    prints, owned, mapped = ray.get(look.remote(shared))
    assert prints == {"test": digits.test.fingerprint(), "train": digits.train.fingerprint()}
    assert owned == [False, False]
    assert "plasma" in mapped


def test_a_node_with_other_images_is_found_out(ray_cluster, digits, tmp_path):
    from afa_dist.runtime.sharing import splits_of

    assert splits_of(RUN, None, digits.fingerprint()).fingerprint() == digits.fingerprint()
    with pytest.raises(UserError, match="other images than on the driver"):
        splits_of(RUN, None, digits.train.fingerprint())


def test_a_loss_that_is_not_finite_fails_the_run_at_once(ray_cluster, tmp_path):
    run = run_in(tmp_path, optimiser=OptimiserConfig(lr=1e30))
    with pytest.raises(TrainingError, match="not finite"):
        go(run)


def test_what_the_cluster_cannot_give_is_refused(ray_cluster, tmp_path):
    run = run_in(tmp_path, schedule=ScheduleConfig(epochs=1, batch_size=1024))
    with pytest.raises(UserError, match="64 workers with 1 CPU each do not fit: the nodes have 2 CPUs"):
        go(run, workers=64)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_does_not_answer_is_an_error_within_seconds(tmp_path):
    command = [sys.executable, ROOT / "jobs/pretrain.py", "--scaling.workers", "2"]
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def listen_to_sigint():
    """A test run started in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)], ids=["Ctrl-C", "SIGTERM"])
def test_a_ray_run_is_stopped_with_a_word_on_how_to_go_on(number, code, ray_cluster, tmp_path):
    """Ctrl-C at once; SIGTERM, which only the driver gets, after the step in progress and a checkpoint."""
    command = [sys.executable, ROOT / "jobs/pretrain.py", "--scaling.workers", "2", "--scaling.threads", "1"]
    command += ["--model.width", "8", "--schedule.epochs", "500", "--tracking.tensorboard", "false"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*map(str, command)], cwd=tmp_path, preexec_fn=listen_to_sigint, **pipes)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/run/checkpoints/step-*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        _, message = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert "the same command continues" in message
    assert "Traceback" not in message
    directory = RunDirectory(tmp_path / "runs/run")
    if code == 75:
        assert directory.checkpoints.newest().step >= directory.metrics()[-1]["step"]


def test_evaluation_on_ray_equals_the_one_in_process(ray_cluster, tmp_path):
    fine = FinetuneRun(
        name="model",
        runs_dir=str(tmp_path),
        mode="full",
        model=ModelConfig(width=8),
        attack=ClassifierAttackConfig(eps=0.1, steps=1),
        schedule=ScheduleConfig(epochs=1, batch_size=64, warmup=0),
        tracking=TrackingConfig(tensorboard=False),
    )
    go(fine, workers=0)
    tables = []
    for workers in (0, 2):
        run = EvaluateRun(
            name=f"evaluate{workers}",
            runs_dir=str(tmp_path),
            model=str(tmp_path / "model"),
            threat=ThreatConfig(eps=0.05),
            attacks=("pgd-3", "pgd-3x2", "apgd-ce"),
            shard_size=96,
            scaling=ScalingConfig(workers=workers, threads=1),
        )
        with session(run.scaling) as placement:
            evaluate(run, check(run), placement, lambda progress: None)
        table = pq.read_table(tmp_path / run.name / "evaluation" / "per_image.parquet")
        tables.append(table.drop_columns(["seconds"]))
    assert tables[0].num_rows == 360
    assert tables[0].equals(tables[1])
