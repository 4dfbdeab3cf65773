"""Nothing that was measured is lost or mixed: kills, time limits, damage, shares of a job array."""

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from afa_dist.errors import Stopped, UserError
from afa_dist.evaluation.checked_file import DamagedOutcome
from afa_dist.evaluation.outcome import CLEAN, ForeignOutcome, Outcome, OutcomeStore, attacked_hash
from afa_dist.evaluation.plan import Plan
from afa_dist.runtime.evaluate import evaluate, so_far
from afa_dist.runtime.evaluation_checks import check
from tests.evaluation.helpers import HERE, killed_and_warned, prepared, rows_of, run_of, summary_of

ROOT = Path(__file__).parents[2]
OPTIONS = {"attacks": ("pgd-2", "pgd-5x2", "apgd-ce"), "shard_size": 100}


@pytest.fixture(scope="module")
def undisturbed(trained, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return summary_of(folder, trained, digits.test, **OPTIONS), rows_of(folder)


def same(folder, summary, undisturbed, name="run"):
    assert rows_of(folder, name).equals(undisturbed[1])
    assert {**summary, "seconds": 0} == {**undisturbed[0], "seconds": 0}


class Interrupted(Exception):
    pass


def interrupt_after(calls):
    """A progress display that ends the evaluation at its nth call."""
    left = [calls]

    def show(progress):
        left[0] -= 1
        if left[0] <= 0:
            raise Interrupted

    return show


def test_an_evaluation_that_is_interrupted_again_and_again_ends_as_an_undisturbed_one(
    trained, digits, tmp_path, undisturbed
):
    kept = []
    for patience in range(3, 60):
        try:
            summary = summary_of(tmp_path, trained, digits.test, interrupt_after(patience), **OPTIONS)
            break
        except Interrupted:
            now = {file: file.stat().st_mtime_ns for file in (tmp_path / "run/evaluation/shards").glob("*")}
            assert kept == [] or kept[-1].items() <= now.items()  # nothing is computed twice
            kept.append(now)
    assert len(kept) >= 5
    same(tmp_path, summary, undisturbed)


def test_damaged_files_are_computed_again_and_whole_ones_are_not(trained, digits, tmp_path, undisturbed):
    summary_of(tmp_path, trained, digits.test, **OPTIONS)
    shards = tmp_path / "run/evaluation/shards"
    (tmp_path / "run/evaluation/summary.json").unlink()
    for number, file in enumerate(sorted(shards.glob("00000100-*"))):
        content = bytearray(file.read_bytes())
        if number == 0:
            content[-5] ^= 1  # one bit of a tensor
        elif number == 1:
            content = content[:40]
        else:
            content = content.replace(b'"count\\"', b'"cuunt\\"')
        file.write_bytes(content)
    whole = {file: file.stat().st_mtime_ns for file in shards.glob("00000200-*")}
    with pytest.warns(UserWarning, match="is damaged.*computed again"):
        summary = summary_of(tmp_path, trained, digits.test, **OPTIONS)
    assert {file: file.stat().st_mtime_ns for file in whole} == whole
    same(tmp_path, summary, undisturbed)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"sha": "1"}, "other weights"),
        ({"eps": 0.2}, "threat.eps"),
        ({"attacks": ("pgd-2",)}, "attacks"),
        ({"images": 50}, "other images"),
        ({"version": "2.0"}, "versions"),
        ({"seed": 3}, "seed"),
    ],
)
def test_other_weights_images_options_and_versions_are_refused(trained, digits, tmp_path, monkeypatch, change, words):
    with pytest.raises(Interrupted):
        summary_of(tmp_path, trained, digits.test, interrupt_after(3), **OPTIONS)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    sha, images, version = (change.pop(name, None) for name in ("sha", "images", "version"))
    if version:
        monkeypatch.setattr("afa_dist.runtime.evaluation_checks.autoattack_version", lambda: version)
    test = digits.test.subset(np.arange(images)) if images else digits.test
    monkeypatch.setattr(
        "afa_dist.runtime.evaluation_checks.load_subject", lambda model: prepared(trained, 0, sha or "0").subject
    )
    monkeypatch.setattr("afa_dist.runtime.evaluation_checks.load_part", lambda data, part: test)
    with pytest.raises(UserError, match=words):
        check(run_of(tmp_path, **{**OPTIONS, **change}))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    if not change:
        # Who comes past that check is stopped when the record is looked at once more, under the lock.
        (tmp_path / "run/evaluation/identity.json").unlink()
        with pytest.raises(UserError, match="earlier version"):
            evaluate(run_of(tmp_path, **OPTIONS), prepared(trained, test, sha or "0"), HERE, lambda progress: None)


def test_shares_of_a_job_array_are_merged_to_the_same_result(trained, digits, tmp_path, undisturbed):
    ready = prepared(trained, digits.test)
    run = run_of(tmp_path, **OPTIONS)

    def part(**change):
        return evaluate(dataclasses.replace(run, **change), ready, HERE, lambda progress: None)

    assert part(shard="2/3") == {"shard": "2/3", "shards": 1, "of": 4}
    with pytest.raises(UserError, match=r"3 of 4 shards are not finished \(number 1, 3, 4\)"):
        part(merge=True)
    assert part(shard="1/3") == {"shard": "1/3", "shards": 2, "of": 4}
    part(shard="3/3")
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run/evaluation/shards").glob("*")}
    same(tmp_path, part(merge=True), undisturbed)
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_the_time_limit_stops_within_an_attack_and_what_is_done_on_all_images_is_shown(
    trained, digits, tmp_path, undisturbed
):
    run = run_of(tmp_path, **OPTIONS, time_limit=0.5)
    ready = prepared(trained, digits.test)
    stops = 0
    summary, seen = None, []
    while summary is None:
        try:
            summary = evaluate(run, ready, HERE, lambda progress: None)
        except Stopped as stopped:
            assert "time_limit" in str(stopped)
            stops += 1
            seen.append(so_far(run, ready))
            if stops > 2:
                run = dataclasses.replace(run, time_limit=0.0)
    assert stops == 3
    same(tmp_path, summary, undisturbed)
    assert seen[-1]["accuracies"].items() <= undisturbed[0]["accuracies"].items()
    assert next(iter(seen[-1]["accuracies"])) == CLEAN and seen[-1]["label"] == "an upper bound: not AutoAttack"


def test_a_job_that_is_killed_or_warned_goes_on(trained_run, tmp_path):
    """The real command: SIGKILL, then SIGTERM (exit code 75), then to its end; and the same at once elsewhere."""
    command = [
        sys.executable,
        str(ROOT / "jobs/evaluate.py"),
        "--model",
        str(trained_run.path),
        "--attacks",
        "pgd-20,apgd-ce,pgd-30x3",
    ]
    command += ["--threat.eps", "0.1", "--shard-size", "45", "--scaling.threads", "1", "--scaling.workers", "0"]
    killed_and_warned(command, tmp_path, lambda: (tmp_path / "runs").rglob("shards/*.safetensors"))
    done = subprocess.run([*command, "--name", "at-once"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "runs").equals(rows_of(tmp_path / "runs", "at-once"))


def test_what_cannot_be_read_at_the_end_is_neither_lost_nor_counted_as_robust(
    trained, digits, tmp_path, undisturbed, monkeypatch
):
    """A file is damaged after it was written and before it is read again."""
    import afa_dist.runtime.evaluate as module

    finish, done = module._Work.finish, []

    def damaged(work, *arguments):
        if not done:
            done.append(True)
            path = tmp_path / "run/evaluation/shards/00000100-pgd-2.safetensors"
            path.write_bytes(path.read_bytes()[:-3])
        return finish(work, *arguments)

    monkeypatch.setattr(module._Work, "finish", damaged)
    with pytest.warns(UserWarning, match="computed again"):
        summary = summary_of(tmp_path, trained, digits.test, **OPTIONS)
    same(tmp_path, summary, undisturbed)


def test_a_disk_that_fails_for_a_moment_costs_no_file(trained, digits, tmp_path, undisturbed, monkeypatch):
    import afa_dist.evaluation.checked_file as module

    summary_of(tmp_path, trained, digits.test, **OPTIONS)
    (tmp_path / "run/evaluation/summary.json").unlink()
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run/evaluation/shards").glob("*")}

    def fails(*_, **__):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(module, "safe_open", fails)
        summary_of(tmp_path, trained, digits.test, **OPTIONS)
    same(tmp_path, summary_of(tmp_path, trained, digits.test, **OPTIONS), undisturbed)
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_outcomes_that_do_not_fit_those_before_them_are_not_used(trained, digits, tmp_path, undisturbed):
    """As after a change of the device: the first attack breaks all, and what came after it is of another time."""
    summary_of(tmp_path, trained, digits.test, **OPTIONS)
    (tmp_path / "run/evaluation/summary.json").unlink()
    import json

    from afa_dist.evaluation.outcome import identity_of

    facts = json.loads((tmp_path / "run/evaluation/identity.json").read_text())
    store = OutcomeStore(tmp_path / "run/evaluation/shards", identity_of(facts))
    clean, first = store.load(100, CLEAN), store.load(100, "pgd-2")
    right = np.setdiff1d(np.arange(100, 200), clean.broken)
    kept = right[:-1]  # all but one
    x_adv = torch.zeros(len(kept), 1, 8, 8)
    tensors = {"indices_R": torch.from_numpy(kept), "x_adv_RCHW": x_adv}
    tensors |= {"predictions_R": torch.zeros(len(kept), dtype=torch.int64), "margins_R": torch.full((len(kept),), -1.0)}
    store.save(dataclasses.replace(first, tensors=tensors))
    summary_of(tmp_path, trained, digits.test, **OPTIONS)
    broken_by = rows_of(tmp_path)["broken_by"].to_pylist()[100:200]
    assert broken_by.count("pgd-2") == len(kept)
    assert sum(by in ("pgd-5x2", "apgd-ce") for by in broken_by) <= 1


def test_two_starts_under_one_name_do_not_mix(trained, digits, tmp_path, monkeypatch):
    """The second one waits for the first, whose evaluation is another: it must not take that for its own."""
    from afa_dist.training.run_dir import RunDirectory

    few = digits.test.subset(np.arange(40))
    locked = RunDirectory.locked

    @contextlib.contextmanager
    def late(directory, *arguments, **options):
        monkeypatch.setattr(RunDirectory, "locked", locked)
        evaluate(run_of(tmp_path, attacks=("pgd-2",)), prepared(trained, few, "one"), HERE, lambda progress: None)
        with locked(directory, *arguments, **options):
            yield

    monkeypatch.setattr(RunDirectory, "locked", late)
    with pytest.raises(UserError, match="other weights"):
        evaluate(run_of(tmp_path, attacks=("pgd-2",)), prepared(trained, few, "two"), HERE, lambda progress: None)
    assert '"one"' in (tmp_path / "run/evaluation/identity.json").read_text()


@pytest.mark.parametrize("name", ["evaluation/identity.json", "evaluation/summary.json", "config.yaml", "provenance.json"])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b""])
def test_damaged_records_are_told_in_words(trained, digits, tmp_path, name, content):
    few = digits.test.subset(np.arange(20))
    with pytest.raises(Interrupted):
        summary_of(tmp_path, trained, few, interrupt_after(3), attacks=("pgd-2",), shard_size=5)
    if name.endswith("summary.json") or content:
        (tmp_path / "run" / name).write_bytes(content)
        with pytest.raises(UserError, match=r"damaged|another specification|earlier version"):
            summary_of(tmp_path, trained, few, attacks=("pgd-2",), shard_size=5)


# -- the parts


def outcome(start, name, attacked, broken, seconds=1.0):
    indices = torch.tensor(broken, dtype=torch.int64)
    if name == CLEAN:
        labels = torch.zeros(len(attacked), dtype=torch.int64)
        predictions = torch.tensor([int(i in broken) for i in attacked])
        tensors = {"labels_N": labels, "predictions_N": predictions, "margins_N": labels.float()}
    else:
        tensors = {"indices_R": indices, "x_adv_RCHW": torch.rand(len(broken), 1, 2, 2)}
    return Outcome(name, start, attacked_hash(np.array(attacked)), len(attacked), seconds, tensors)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), images=st.integers(1, 30), size=st.integers(1, 12), workers=st.integers(1, 4))
def test_a_plan_gives_each_attack_what_the_ones_before_left_however_many_work_on_it(data, images, size, workers):
    """Random falls, random order of finishing, random losses of what was kept: each image falls to the same attack."""
    names = [CLEAN, "pgd-1", "pgd-2", "square"]
    falls_to = data.draw(st.lists(st.sampled_from([*names, None]), min_size=images, max_size=images))
    kept = {}
    seen = {}

    def stored(start, name):
        return kept.get((start, name))

    for _ in range(2):
        plan = Plan(images, size, names[1:], 10, stored, range(-(-images // size)))
        running = []
        while True:
            while len(running) < workers and (unit := plan.take()):
                running.append(unit)
            if not running:
                break
            unit = running.pop(data.draw(st.integers(0, len(running) - 1)))
            name, start, standing = plan.name(unit), plan.start(unit), plan.standing[unit.shard].tolist()
            assert standing == [
                i for i in range(start, min(start + size, images)) if falls_to[i] not in names[: unit.stage]
            ]
            result = outcome(start, name, standing, [i for i in standing if falls_to[i] == name])
            kept[start, name] = result
            plan.done(unit, result)
            done, left = plan.work()
            assert left >= 0 and done > 0 and (left == 0) == plan.finished
        assert plan.finished and plan.take() is None
        standing = [i for shard in plan.standing for i in shard]
        assert standing == [i for i in range(images) if falls_to[i] is None]
        assert seen in ({}, standing)
        seen = standing
        for key in list(kept):
            if data.draw(st.booleans()):
                del kept[key]


def test_attacks_are_finished_on_all_images_before_the_next_begins():
    plan = Plan(30, 10, ["pgd-1", "square"], 10, lambda start, name: None, [0, 1, 2])
    order = []
    while unit := plan.take():
        order.append((plan.name(unit), plan.start(unit)))
        plan.done(unit, outcome(plan.start(unit), plan.name(unit), plan.standing[unit.shard].tolist(), []))
    assert order == [(name, start) for name in (CLEAN, "pgd-1", "square") for start in (0, 10, 20)]


def test_the_time_left_is_that_of_attacks_like_those_seen():
    plan = Plan(20, 10, ["pgd-10", "square"], 10, lambda start, name: None, [0, 1])
    seconds = {CLEAN: 0.1, "pgd-10": 3.0, "square": 50.0}
    for _ in range(4):  # clean on both, pgd on both: half of the images fall
        unit = plan.take()
        standing = plan.standing[unit.shard].tolist()
        broken = [] if plan.name(unit) == CLEAN else standing[:5]
        plan.done(unit, outcome(plan.start(unit), plan.name(unit), standing, broken, seconds[plan.name(unit)]))
    # 30 passes took 10 images 3 s: 5,000 queries of the 10 that stand take 500 s.
    assert plan.work() == (pytest.approx(6.2), pytest.approx(10 * 5000 * 6.0 / (20 * 30)))
    unit = plan.take()
    plan.done(unit, outcome(plan.start(unit), "square", plan.standing[unit.shard].tolist(), [], 40.0))
    assert plan.work()[1] == pytest.approx(40.0)


def test_an_outcome_is_read_back_or_refused(tmp_path):
    store = OutcomeStore(tmp_path, "mine")
    assert store.load(0, "pgd-1") is None
    written = outcome(16, "pgd-1", [16, 17, 20], [17, 20], 2.5)
    store.save(written)
    path = store.path(16, "pgd-1")
    read = store.load(16, "pgd-1")
    assert dataclasses.replace(read, tensors={}) == dataclasses.replace(written, tensors={})
    assert all(torch.equal(read.tensors[name], tensor) for name, tensor in written.tensors.items())
    assert read.broken.tolist() == [17, 20]
    with pytest.raises(ForeignOutcome):
        OutcomeStore(tmp_path, "another's").load(16, "pgd-1")
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises((DamagedOutcome, ForeignOutcome)):
            store.load(16, "pgd-1")
    path.write_bytes(b"")
    with pytest.raises(DamagedOutcome):
        store.load(16, "pgd-1")
