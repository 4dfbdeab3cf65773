"""A range of workers: which numbers, and a cluster of two nodes that loses one and gets another."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afa_dist.config import PretrainRun, ScalingConfig, ScheduleConfig
from afa_dist.config.scaling import sharing_counts
from afa_dist.distributed import SLICE
from afa_dist.errors import TrainingError, UserError
from afa_dist.runtime.elastic import Sizes, wait_for_room
from afa_dist.runtime.placement import place_on_nodes
from afa_dist.training.run_dir import RunDirectory
from tests.nodes import nodes_of, wait_for
from tests.object_store import ObjectStore

ROOT = Path(__file__).parents[2]
NODE = dict[str, float]
NODES = st.lists(st.fixed_dictionaries({"CPU": st.integers(0, 9), "GPU": st.integers(0, 4)}), max_size=5)


@given(batch=st.integers(1, 64).map(lambda slices: slices * SLICE), fewest=st.integers(1, 9), more=st.integers(0, 9))
def test_counts_share_the_batch_in_whole_slices(batch, fewest, more):
    counts = sharing_counts(batch, fewest, fewest + more)
    assert counts == sorted(set(counts))
    for count in range(fewest, fewest + more + 1):
        assert (count in counts) == (count == 1 or (batch % count == 0 and batch // count % SLICE == 0))


@given(nodes=NODES, threads=st.integers(0, 3), gpu=st.booleans())
def test_a_placement_fits_and_none_that_could_share_is_greater(nodes, threads, gpu):
    sizes = Sizes([2, 4, 8], threads, gpu)
    placement = sizes.place(nodes, None)
    each = [min(n["CPU"] // (threads or 1), n["GPU"]) if gpu else n["CPU"] // (threads or 1) for n in nodes]
    want = max((count for count in (2, 4, 8) if count <= sum(each)), default=0)
    if not want:
        assert placement is None
        return
    assert placement.workers == want
    assert placement.threads == threads or threads == 0
    assert sum(min(n["CPU"] // placement.threads, n["GPU"] if gpu else 99) for n in nodes) >= want
    assert sizes.fitting(nodes, already=2) >= want


def test_workers_that_share_gpus_never_span_two():
    for gpus, share, want in ((4, 0.7, 4), (3, 0.4, 6), (2, 0.35, 4), (1, 0.1, 10), (2, 1.0, 2)):
        nodes = [{"CPU": 64.0, "GPU": float(gpus)}]
        placement = place_on_nodes(ScalingConfig(workers="1..99"), nodes, None, gpu_share=share)
        assert (placement.workers, placement.gpu) == (want, True)


def test_waiting_for_room_ends_as_soon_as_there_is_some():
    looks = iter([[], [], [{"CPU": 1.0}], [{"CPU": 2.0}]])
    assert wait_for_room(Sizes([2], 1, False), lambda: next(looks), seconds=60, interval=0) == [{"CPU": 2.0}]


@pytest.mark.parametrize("text", ["2..", "8..2", "0..4", "..", "two", "1.5", "2..4..8", "-1..2"])
def test_ranges_that_are_none_are_named(text):
    from afa_dist.cli.specification import build

    with pytest.raises(UserError, match=r"workers: .*a whole number or a range such as 2\.\.8"):
        build(ScalingConfig, {"workers": text})


def test_a_range_in_which_no_number_can_share_the_batch():
    with pytest.raises(UserError, match=r"48 cannot be shared by any of 4 to 6 workers"):
        PretrainRun(schedule=ScheduleConfig(batch_size=48), scaling=ScalingConfig(workers="4..6"))
    PretrainRun(schedule=ScheduleConfig(batch_size=48), scaling=ScalingConfig(workers="2..6"))  # 3 can


@pytest.mark.ray
def test_groups_that_never_start_end_the_run(ray_cluster, tmp_path):
    from ray import train as ray_train

    from afa_dist.runtime.board import Board
    from afa_dist.runtime.placement import Placement
    from afa_dist.runtime.ray_train import MOST_UNSTARTED, Groups

    run = PretrainRun(scaling=ScalingConfig(workers="1..2", max_failures=99), runs_dir=str(tmp_path))
    directory = RunDirectory.of(run)
    directory.create(run, {"start": "one"})
    tried = []

    class Failing(Groups):
        def _train(self, placement, group):
            tried.append(group)
            assert len(tried) < 20
            raise ray_train.TrainingFailedError("no group")

    placement = Placement(2, gpu=False, threads=1)
    with (
        pytest.warns(UserWarning),
        pytest.raises(TrainingError, match="6 groups of workers in a row did not start: no group"),
    ):
        Failing(run, directory, {"start": "one"}, Board("one"), placement, str).run(placement)
    assert len(set(tried)) == MOST_UNSTARTED + 1


@pytest.fixture
def two_nodes():
    with nodes_of() as cluster:
        yield cluster


OPTIONS = "--model.width 8 --model.projection_dim 16 --data.train_limit 600 --data.crop_padding 1 --attack.steps 1"
OPTIONS += " --schedule.batch_size 32 --validation.steps 1 --tracking.tensorboard false --tracking.log_every_steps 1"
OPTIONS += " --scaling.threads 1 --scaling.precision fp64 --scaling.device cpu --ema.decay 0.9"


def job(folder: Path, epochs: int, *options: str, env=None, runs_dir="") -> subprocess.Popen:
    command = [sys.executable, ROOT / "jobs/pretrain.py", *OPTIONS.split(), "--schedule.epochs", str(epochs)]
    log = (folder / "log.txt").open("a")
    return subprocess.Popen(
        [*command, "--runs_dir", runs_dir or folder, "--name", "run", *options],
        env=env,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


class Watched:
    """A run on the two nodes, seen from outside."""

    def __init__(self, folder: Path, process: subprocess.Popen) -> None:
        self.directory = RunDirectory(folder / "run")
        self.process = process
        self.log = folder / "log.txt"

    def groups(self) -> list[tuple[int, int]]:
        """(step, workers) of each group so far."""
        noted = (self.directory.starts() or [{}])[0].get("workers", [])
        return [(entry["step"], entry["workers"]) for entry in noted]

    def last_step(self) -> int:
        return max((row["step"] for row in self.directory.metrics()), default=0)

    def wait(self, condition) -> None:
        wait_for(condition, self.process, 120, self.log)

    def resized(self, workers: int, action=lambda: None) -> tuple[int, float]:
        """Do something and wait for a group of `workers` that goes on; (steps repeated at most, seconds until it began)."""
        before, started = len(self.groups()), time.monotonic()
        action()
        highest = 0

        def regrouped() -> bool:
            nonlocal highest
            highest = max(highest, self.last_step())
            return len(self.groups()) > before

        self.wait(regrouped)
        seconds = time.monotonic() - started
        step, now = self.groups()[-1]
        assert now == workers, self.log.read_text()
        self.wait(lambda: self.last_step() > highest + 10)
        return highest - step, seconds


@pytest.mark.ray
def test_nodes_are_lost_added_and_taken_away(two_nodes, tmp_path, alone):
    """Two workers, one, two, one; the run ends as one process does that nothing ever happened to."""
    second = two_nodes.add()
    options = ["--scaling.workers", "1..2", "--scaling.resize_seconds", "1", *EVERY]
    run = Watched(tmp_path, job(tmp_path, EPOCHS, *options, env=two_nodes.env))
    run.wait(lambda: run.groups()[-1:] == [(0, 2)] and run.last_step() > 50)
    repeated, seconds = run.resized(1, lambda: two_nodes.kill(second))
    assert repeated <= int(EVERY[1])
    told = [f"killed node: {seconds:.1f} s, {repeated} steps repeated"]
    repeated, seconds = run.resized(2, lambda: two_nodes.add("--node-ip-address=127.0.0.2"))
    assert repeated == 0
    told.append(f"added node: {seconds:.1f} s")
    # What a pod runs before it ends: it has ended before its time is over, since nobody computes there any more.
    leave = [sys.executable, "-m", "cluster.ray.leave", "--ip", "127.0.0.2", "--seconds", "80"]
    leaving = []
    start = partial(subprocess.Popen, leave, cwd=ROOT, env=two_nodes.env, stdout=subprocess.PIPE, text=True)
    repeated, seconds = run.resized(1, lambda: leaving.append(start()))
    assert repeated == 0
    said, _ = leaving[0].communicate(timeout=60)
    assert leaving[0].returncode == 0, said
    assert said.splitlines()[-1] == "all have left"
    told.append(f"drained node: {seconds:.1f} s")
    assert run.process.wait(timeout=240) == 0, run.log.read_text()
    rows = [(row["step"], row["phase"]) for row in run.directory.metrics()]
    assert rows == sorted(set(rows), key=lambda row: (row[0], row[1] == "validation"))
    assert len(rows) == 17 * EPOCHS  # sixteen steps and a validation an epoch: no gap, no repeat
    print("\n" + "; ".join(told))
    assert_like_one_process(run.directory, alone)


EPOCHS = 40
EVERY = ["--checkpoint.every_steps", "40"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run in one process, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    assert job(folder, EPOCHS, "--scaling.workers", "0", *EVERY).wait(timeout=240) == 0
    return RunDirectory(folder / "run")


def assert_like_one_process(directory, alone):
    """Same images in the same order, same learning rates: in fp64 nothing else is left to differ."""
    for got, want in zip(directory.metrics(), alone.metrics(), strict=True):
        assert got.pop("phase") == want.pop("phase")
        assert got == pytest.approx(want, abs=1e-6)
    got, want = directory.checkpoints.newest().model, alone.checkpoints.newest().model
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert (got[name] - value).abs().max() < 1e-6, name


@pytest.mark.ray
def test_machines_that_have_nothing_in_common_but_an_object_store(tmp_path, alone):
    """The one of worker 0 is lost with its disk; another goes on from what lies in the store, and ends as ever."""
    store = ObjectStore(tmp_path)
    address = store.address("runs")
    with nodes_of(head_cpus=0) as cluster:
        nodes = {1: cluster.add(), 2: cluster.add()}
        env = {**cluster.env, "XDG_CACHE_HOME": str(cluster.cache(9))}  # the driver's machine is a fourth one
        process = job(tmp_path, EPOCHS, "--scaling.workers", "1..2", *EVERY, env=env, runs_dir=address)
        log = tmp_path / "log.txt"
        wait_for(lambda: sum("manifest" in name for name in store.files("runs")) >= 2, process, 120, log)
        (main,) = [number for number in nodes if list(cluster.cache(number).glob("afa-dist/*/bucket/runs/run/lock"))]
        cluster.kill(nodes[main])
        assert process.wait(timeout=240) == 0, log.read_text()
        (copy,) = cluster.cache(3 - main).glob("afa-dist/*/bucket/runs/run")
        directory = RunDirectory(copy)
        groups = [entry["workers"] for entry in directory.starts()[0]["workers"]]
        assert groups == [2, 1], log.read_text()
        driver = RunDirectory(next(cluster.cache(9).glob("afa-dist/*/bucket/runs/run")))
        assert driver.metrics() == directory.metrics()
        assert not driver.checkpoints.steps()
        rows = [(row["step"], row["phase"]) for row in directory.metrics()]
        assert len(rows) == len(set(rows))
        steps = {name.split("/")[2] for name in store.files("runs") if "/step-" in name}
        assert steps == {directory.checkpoints.path(step).name for step in directory.checkpoints.steps()}
        assert_like_one_process(directory, alone)
    store.stop()


@pytest.mark.ray
def test_room_is_waited_for_and_without_room_elsewhere_a_notice_ends_the_run(two_nodes, tmp_path):
    run = Watched(tmp_path, job(tmp_path, 500, "--scaling.workers", "2..4", env=two_nodes.env))
    run.wait(lambda: "no room for 2 workers now; waiting for it" in run.log.read_text())
    two_nodes.add()
    run.wait(lambda: run.last_step() > 10)
    two_nodes.drain(1)
    assert run.process.wait(timeout=60) == 75, run.log.read_text()
    assert "a node is taken away" in run.log.read_text()
    assert "the same command continues" in run.log.read_text()
    assert run.directory.checkpoints.newest().step == run.last_step()
