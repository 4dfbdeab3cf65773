"""Directories and their mirror: whatever is cut off, damaged or goes on elsewhere, in one place lies one history."""

import contextlib
import itertools
import shutil
import threading
import time
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.config import PretrainRun
from afa_dist.errors import TrainingError
from afa_dist.training import mirroring
from afa_dist.training.checkpoint import Checkpoint
from afa_dist.training.exchange import copy_up
from afa_dist.training.lease import Claim
from afa_dist.training.mirror import Mirror
from afa_dist.training.mirroring import brought_here, take_over
from afa_dist.training.run_dir import RunDirectory
from afa_dist.training.uploads import Uploads

EVERY = 2


class Cut(Exception):
    """The power fails."""


class World:
    """A store, machines with a working copy each, and a run whose weights tell the whole history that led to them."""

    def __init__(self, folder):
        self.folder = folder
        self.run = PretrainRun(runs_dir=f"file://{folder}/store", name="run")
        self.address = mirroring.mirror_address(self.run)
        self.starts = 0

    def directory(self, machine):
        return RunDirectory(self.folder / f"machine-{machine}" / "run", self.address)

    def bring_down(self, machine, cut_after=None):
        """As a start does at first; it may be cut off after so many files."""
        directory = self.directory(machine)
        left = [cut_after]

        class Cutting(Mirror):
            def _get(self, *arguments):
                if left[0] is not None:
                    left[0] -= 1
                    if left[0] < 0:
                        raise Cut
                super()._get(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mirroring, "Mirror", Cutting)
            take_over(self.run, directory, 1)
        return directory

    def work(self, machine, steps, uploads, cut_after=None, finish=False):
        """One start, killed after so many steps or finished. uploads: how many checkpoints get through to the store."""
        with contextlib.suppress(Cut):
            try:
                directory = self.bring_down(machine, cut_after)
            finally:
                if self.directory(machine).has_results():  # the same command is not refused, wherever it was cut off
                    assert not list(self.directory(machine).problems(self.run))
            if directory.finished():
                one_history(directory)
                copy_up(Mirror(self.address), directory)
                return
            self.starts += 1
            directory.create(self.run, {"start": f"start-{self.starts}"})
            mirroring.put_files(self.run, directory)
            self._train(directory, steps, uploads)
            if finish and directory.checkpoints.steps():
                step = directory.checkpoints.newest(directory.run_id).step
                directory.rewind_metrics(step)
                directory.write_json("summary.json", {"steps": step, "value": directory.metrics()[-1]["value"]})
                if uploads > steps // EVERY:
                    copy_up(Mirror(self.address), directory)

    def _train(self, directory, steps, uploads):
        store = directory.checkpoints
        newest = store.newest(directory.run_id)
        step = newest.step if newest else 0
        value = int(newest.model["value"]) if newest else 0
        store.set_aside_after(step)
        directory.rewind_metrics(step)
        one_history(directory)
        directory.note_workers(step, 1)
        mirror, claim = Mirror(self.address), Claim.of(directory)
        for _ in range(steps):
            step += 1
            value = (value * 31 + self.starts) % 1_000_003
            directory.append_metrics({"step": step, "value": value, "start": self.starts})
            if step % EVERY == 0:
                tensors = {"value": torch.tensor(value)}
                store.save(Checkpoint(step, tensors, tensors, {"best": None, "run": directory.run_id}))
                store.prune(2)
                if uploads > 0:
                    copy_up(mirror, directory, anew={step}, check=lambda: claim.check(mirror))
                    uploads -= 1

    def damage(self, machine, which):
        """One of the checkpoints of a machine, if it has so many."""
        store = self.directory(machine).checkpoints
        steps = store.steps()
        if which < len(steps):
            (store.path(steps[-1 - which]) / "model.safetensors").write_bytes(b"half")


def one_history(directory):
    """Rows without gaps that follow from each other, and checkpoints that are of them."""
    value, values = 0, {}
    for step, row in enumerate(directory.metrics(), start=1):
        assert row["step"] == step
        value = (value * 31 + row["start"]) % 1_000_003
        assert row["value"] == value
        values[step] = value
    for step in directory.checkpoints.steps():
        if directory.checkpoints.is_whole(step):
            assert int(directory.checkpoints.load(step).model["value"]) == values[step]
    if directory.finished():
        assert directory.read_json("summary.json") == {"steps": max(values), "value": value}
        assert directory.checkpoints.steps()[-1] == max(values)


START = st.fixed_dictionaries(
    {"machine": st.integers(0, 1), "steps": st.integers(0, 7), "uploads": st.integers(0, 4)},
    optional={"cut_after": st.integers(0, 12), "finish": st.booleans()},
)
EVENT = st.one_of(START, START, st.tuples(st.integers(0, 1), st.integers(0, 1)), st.integers(0, 1))


@settings(max_examples=300, deadline=None)
@given(events=st.lists(EVENT, min_size=3, max_size=9))
def test_there_is_one_history_whatever_happens(events, tmp_path_factory):
    """Starts on two machines, at last on a third; cut off while fetching, uploads that fail, damaged and lost copies."""
    world = World(tmp_path_factory.mktemp("world"))
    saved = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for event in events:
            if isinstance(event, dict):
                with contextlib.suppress(TrainingError):  # none is whole: said, not passed over
                    world.work(**event)
            elif isinstance(event, tuple):
                world.damage(*event)
            else:
                shutil.rmtree(world.folder / f"machine-{event}", ignore_errors=True)
            steps = Mirror(world.address).steps() if (world.folder / "store").exists() else []
            assert max(steps, default=0) >= min(saved, 1)  # what was there once has a successor
            saved = max(steps, default=0)
        if saved:
            directory = world.bring_down("new")
            assert directory.checkpoints.newest(directory.run_id).step == saved
            directory.rewind_metrics(saved)
            one_history(directory)
            assert directory.metrics()[-1]["step"] == saved


def test_a_copy_fetched_while_the_run_goes_on_is_brought_up_to_date_later(world):
    world.work(0, 4, uploads=9)
    working = world.directory(0)
    early = world.bring_down(1)
    assert len(early.metrics()) == 4
    claim, mirror = Claim.of(working), Mirror(world.address)
    for step in (5, 6):
        working.append_metrics({"step": step, "value": step, "start": 1})
    tensors = {"value": torch.tensor(6)}
    working.checkpoints.save(Checkpoint(6, tensors, tensors, {"best": None, "run": working.run_id}))
    working.write_json("summary.json", {"steps": 6})
    copy_up(mirror, working, check=lambda: claim.check(mirror))
    late = world.bring_down(1)
    assert late.metrics() == working.metrics()
    assert late.finished()


def test_a_summary_is_not_there_before_the_last_checkpoint(world, monkeypatch):
    world.work(0, 4, uploads=9)
    directory, mirror = world.directory(0), Mirror(world.address)
    tensors = {"value": torch.tensor(6)}
    directory.checkpoints.save(Checkpoint(6, tensors, tensors, {"best": None, "run": directory.run_id}))
    directory.write_json("summary.json", {"steps": 6})
    put = Mirror._put

    def failing(self, source, target):
        if source.suffix == ".safetensors":
            raise OSError("no room for so much")
        put(self, source, target)

    monkeypatch.setattr(Mirror, "_put", failing)
    with pytest.raises(OSError, match="no room"):
        copy_up(mirror, directory)
    assert not mirror.read_text("summary.json")
    assert mirror.steps() == [2, 4]


def test_a_mirror_that_was_cut_off_at_its_first_file_overwrites_nothing(world):
    world.work(0, 6, uploads=0)
    before = world.directory(0).metrics()
    shutil.rmtree(world.folder / "store")
    Mirror(world.address).write_text("metrics.jsonl", "")
    with pytest.warns(UserWarning, match="is empty"):
        assert world.bring_down(0).metrics() == before


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_copy_that_is_ahead_is_not_overwritten(world, monkeypatch):
    """The store was away at the end; somebody asks for the run here before it is completed."""
    world.work(0, 4, uploads=1)
    directory = world.directory(0)
    before = directory.metrics(), directory.checkpoints.steps()
    monkeypatch.setattr(mirroring.RunDirectory, "at", lambda place: directory)
    for checkpoints in (True, False):
        brought_here(world.address, checkpoints)
        assert (directory.metrics(), directory.checkpoints.steps()) == before


def test_an_old_copy_of_another_run_is_not_taken_for_the_run(world, monkeypatch):
    world.work(0, 8, uploads=9)
    shutil.rmtree(world.folder / "store")
    world.work(1, 6, uploads=9)
    monkeypatch.setattr(mirroring.RunDirectory, "at", lambda place: world.directory(0))
    with pytest.warns(UserWarning, match="is not the run that was worked on here"):
        directory = brought_here(world.address)
    one_history(directory)
    assert directory.checkpoints.steps() == [4, 6]
    assert directory.run_id == world.directory(1).run_id


def test_what_was_not_uploaded_gives_way_to_what_went_on_elsewhere(world):
    world.work(0, 8, uploads=1)
    world.work(1, 3, uploads=9)
    with pytest.warns(UserWarning, match="as it went on elsewhere"):
        directory = world.bring_down(0)
    assert directory.checkpoints.steps() == [2, 4]
    assert directory.checkpoints.path(8).with_name("step-00000008.damaged").is_dir()  # nothing that was saved is deleted
    directory.rewind_metrics(4)
    one_history(directory)


def test_a_copy_that_worked_for_itself_twice_is_behind_one_that_the_store_knows(world):
    world.work(0, 4, uploads=9)
    world.work(1, 4, uploads=0)
    world.directory(1).note_workers(8, 2)  # a second group of workers
    world.work(0, 6, uploads=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        directory = world.bring_down(1)
    assert directory.metrics() == world.directory(0).metrics()
    one_history(directory)


def test_the_end_of_a_turn_that_was_not_uploaded_is_no_end(world):
    """Finished here while the store was away; the run went on elsewhere from what the store had."""
    world.work(0, 6, uploads=1, finish=True)
    assert world.directory(0).finished()
    world.work(1, 2, uploads=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        directory = world.bring_down(0)
    assert not directory.finished()
    assert (directory.path / ".aside" / "summary.json").exists()
    one_history(directory)


def test_a_disk_that_was_set_back_gets_the_rows_of_what_it_fetches(world):
    """Restored from a backup: this copy worked last, and knows less than the store."""
    world.work(0, 4, uploads=9)
    backup = world.folder / "backup"
    shutil.copytree(world.directory(0).path, backup)
    directory = world.directory(0)
    value = directory.metrics()[-1]["value"]
    for step in range(5, 9):
        value = (value * 31 + 1) % 1_000_003
        directory.append_metrics({"step": step, "value": value, "start": 1})
        tensors = {"value": torch.tensor(value)}
        directory.checkpoints.save(Checkpoint(step, tensors, tensors, {"best": None, "run": directory.run_id}))
    copy_up(Mirror(world.address), directory)
    shutil.rmtree(directory.path)
    backup.rename(directory.path)
    assert world.bring_down(0).checkpoints.steps()[-1] == 8
    one_history(world.directory(0))


def test_checkpoints_that_are_damaged_here_come_from_the_store(world):
    world.work(0, 4, uploads=9)
    for which in (0, 1):
        world.damage(0, which)
    directory = world.bring_down(0)
    assert all(directory.checkpoints.is_whole(step) for step in (2, 4))


def test_a_halted_start_changes_nothing_in_the_run_of_its_successor(world):
    """It wakes when the successor has ended and holds nothing any more."""
    world.work(0, 4, uploads=9)
    halted = world.directory(0)
    claim, mirror = Claim.of(halted), Mirror(world.address)
    world.work(1, 8, uploads=9)
    before = mirror.steps(), mirror.read_text("metrics.jsonl")
    with pytest.raises(TrainingError, match="is the work of a start that has ended"):
        copy_up(mirror, halted, check=lambda: claim.check(mirror))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        uploads = Uploads(world.address, halted)
        uploads.add(4)
        uploads.close()
    assert "is the work of" in uploads.trouble
    assert (mirror.steps(), mirror.read_text("metrics.jsonl")) == before


def test_a_slow_store_always_has_a_checkpoint_of_late(world, monkeypatch):
    """Copying one takes longer than the time between two; the store falls behind, and never stands still."""
    put = Mirror._put

    def slow(self, source, target):
        time.sleep(0.03)
        put(self, source, target)

    monkeypatch.setattr(Mirror, "_put", slow)
    directory = world.directory(0)
    directory.create(world.run, {"start": "one"})
    store, uploads, seen = directory.checkpoints, Uploads(world.address, directory), []
    for step in range(1, 40):
        tensors = {"value": torch.tensor(step)}
        store.save(Checkpoint(step, tensors, tensors, {"best": {"step": 1}, "top": [{"step": 1}], "run": "one"}))
        with uploads.lock:
            store.prune(2, uploads.holds)
        uploads.add(step)
        seen.append(max(Mirror(world.address).steps(), default=0))
        time.sleep(0.05)
    uploads.close()
    assert not uploads.trouble
    assert max(b - a for a, b in itertools.pairwise(seen)) < 15
    assert seen[-1] > 20
    assert Mirror(world.address).steps() == store.steps()


def test_two_that_fetch_at_once_get_the_whole_run(world, monkeypatch):
    world.work(0, 6, uploads=9)
    monkeypatch.setenv("XDG_CACHE_HOME", str(world.folder / "cache"))
    found = []
    threads = [threading.Thread(target=lambda: found.append(brought_here(world.address))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for directory in found:
        one_history(directory)
        assert directory.checkpoints.steps() == [4, 6]


def test_asking_who_works_here_is_no_work(world):
    """Many that ask at once see nobody."""
    directory = world.directory(0)
    with directory.locked():
        assert directory.in_use()
    answers = []

    def ask():
        answers.extend(directory.in_use() for _ in range(2000))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(answers)
    assert (directory.path / "lock").exists()
