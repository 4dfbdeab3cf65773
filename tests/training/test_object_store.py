"""Runs that lie in an object store: machines and the store come and go, and one start at a time works on a run."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest

from afa_dist.errors import TrainingError, UserError
from afa_dist.training import lease as lease_module
from afa_dist.training.lease import Lease
from afa_dist.training.mirror import LEASE, Mirror
from afa_dist.training.run_dir import RunDirectory
from tests.object_store import KEYS, ObjectStore
from tests.training.test_mirror import final
from tests.training.test_storage import COMMAND, ROOT

EVERY_STEP = ("--checkpoint.every_steps", "1")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    server = ObjectStore(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield server
    server.stop()


def start(address, machine, *options, command=COMMAND):
    """machine: the folder of its working copies."""
    env = {**os.environ, **KEYS, "XDG_CACHE_HOME": str(machine), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--runs_dir", address, *options], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process, seconds=120):
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def run(*arguments, **options):
    return ended(start(*arguments, **options))


def copy_on(machine):
    """The folder of all working copies of a machine."""
    (folder,) = machine.glob("afa-dist/*/bucket/*")
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = subprocess.run([*COMMAND, *EVERY_STEP, "--runs_dir", str(folder)], timeout=120, check=False)
    assert done.returncode == 0
    return final(folder)


def ends_alike(machine, undisturbed):
    name, weights, rows = final(copy_on(machine))
    assert (name, weights) == undisturbed[:2]
    assert [row for row in rows if row["phase"] == "validation"] == [
        row for row in undisturbed[2] if row["phase"] == "validation"
    ]
    assert len({(row["step"], row["phase"]) for row in rows}) == len(rows)


def test_another_machine_goes_on_from_the_store(store, undisturbed, tmp_path):
    """Killed; a new machine ends it as if nothing had been; a third one finds it finished."""
    address = store.address("moved")
    process = start(address, tmp_path / "first", *EVERY_STEP)
    store.wait_for("moved/run/checkpoints", "manifest.json", 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    steps = [int(name[5:13]) for name in store.files("moved/run/checkpoints") if name.endswith("manifest.json")]
    code, out, err = run(address, tmp_path / "second", *EVERY_STEP)
    assert code == 0, err
    assert f"continues from the checkpoints there, last saved at step {max(steps)}" in out
    ends_alike(tmp_path / "second", undisturbed)
    assert LEASE not in store.files("moved/run")
    code, out, err = run(address, tmp_path / "third", *EVERY_STEP)
    assert code == 0, err
    assert "already finished" in out
    assert "s3://bucket/moved/run" in out


def test_the_store_halts_in_mid_run(store, undisturbed, tmp_path):
    """Training goes on without it, and all is there when it is back."""
    address = store.address("halted")
    process = start(address, tmp_path / "machine", *EVERY_STEP)
    store.wait_for("halted/run/checkpoints", "manifest.json", 1)
    store.process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    store.process.send_signal(signal.SIGCONT)
    code, _, err = ended(process)
    assert code == 0, err
    ends_alike(tmp_path / "machine", undisturbed)
    names = {name for name in store.files("halted/run") if "checkpoints" in name}
    assert {f"checkpoints/{undisturbed[0]}/manifest.json"} <= names


def test_the_store_is_lost_in_mid_run_and_comes_back_empty(undisturbed, tmp_path):
    store = ObjectStore(tmp_path)
    try:
        process = start(store.address("lost"), tmp_path / "machine", *EVERY_STEP)
        store.wait_for("lost/run/checkpoints", "manifest.json", 1)
        store.stop()
        code, _, err = ended(process)
        assert code == 1
        assert err.count("training goes on, it is tried again") == 1
        assert "is complete in" in err
        ends_alike(tmp_path / "machine", undisturbed)
        store.start()
        code, out, err = run(store.address("lost"), tmp_path / "machine", *EVERY_STEP)
        assert code == 0, err
        assert "already finished" in out
        assert "is empty; going on from its working copy" in err
        assert f"checkpoints/{undisturbed[0]}/manifest.json" in store.files("lost/run")
        assert "summary.json" in store.files("lost/run")
    finally:
        store.stop()


def test_a_warning_while_the_store_is_away_says_where_the_last_steps_are(tmp_path):
    store = ObjectStore(tmp_path)
    process = start(store.address("away"), tmp_path / "machine", *EVERY_STEP, "--schedule.epochs", "400")
    store.wait_for("away/run/checkpoints", "manifest.json", 1)
    store.stop()
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    assert code == 75
    assert "stopped by SIGTERM, all is saved here, but s3://bucket/away/run lacks step" in err


def test_an_old_working_copy_gives_way_to_another_run(store, tmp_path):
    """The run was removed from the store, and begun anew on another machine, with other options and images."""
    address = store.address("anew")
    assert run(address, tmp_path / "one", "--seed", "1", "--data.train_limit", "280")[0] == 0
    store.filesystem().delete_dir("bucket/anew/run")
    assert run(address, tmp_path / "two")[0] == 0
    code, out, err = run(address, tmp_path / "one")
    assert code == 0, err
    assert "already finished" in out
    assert "is not the run that was worked on here; that is in" in err
    ids = {RunDirectory(path).run_id for path in copy_on(tmp_path / "one").iterdir()}
    assert len(ids) == 2
    assert RunDirectory(copy_on(tmp_path / "one") / "run").run_id == RunDirectory(copy_on(tmp_path / "two") / "run").run_id


def test_of_two_starts_the_second_is_refused(store, tmp_path):
    address = store.address("two")
    first = start(address, tmp_path / "one", "--schedule.epochs", "400")
    store.wait_for("two/run", LEASE, 1)
    code, _, err = run(address, tmp_path / "two", "--schedule.epochs", "400")
    assert code == 2
    assert f"is in use by process {first.pid} on" in err
    first.send_signal(signal.SIGTERM)
    assert ended(first)[0] == 75
    assert LEASE not in store.files("two/run")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease_module, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(lease_module, "SETTLE_SECONDS", 0.05)


def of_another_machine(address, start="other", beats=1):
    words = {"start": start, "beats": beats, "who": "process 7 on elsewhere", "machine": "elsewhere", "pid": 7}
    Mirror(address).write_text(LEASE, json.dumps(words))


def test_a_holder_elsewhere_that_is_silent_is_gone(short, tmp_path):
    address = f"file://{tmp_path}/run"
    of_another_machine(address)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="process 7 on elsewhere worked on"), Lease(address, "mine", "name"):
        assert 0.9 < time.monotonic() - began < 5
        assert json.loads(Mirror(address).read_text(LEASE))["start"] == "mine"
    assert Mirror(address).read_text(LEASE) == ""


def test_a_holder_elsewhere_that_writes_keeps_the_run(short, tmp_path):
    address = f"file://{tmp_path}/run"
    ended = threading.Event()

    def hold():
        beats = 0
        while not ended.wait(0.1):
            of_another_machine(address, beats := beats + 1)

    of_another_machine(address)
    thread = threading.Thread(target=hold)
    thread.start()
    try:
        with (
            pytest.warns(UserWarning),
            pytest.raises(UserError, match="in use by process 7 on elsewhere"),
            Lease(address, "mine", "name"),
        ):
            pass
    finally:
        ended.set()
        thread.join()


def test_a_halted_holder_learns_that_another_took_over(short, tmp_path):
    address = f"file://{tmp_path}/run"
    with pytest.raises(TrainingError, match="was taken over by process 7"), Lease(address, "mine", "name") as lease:
        of_another_machine(address)
        deadline = time.monotonic() + 5
        while not lease.loss():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert json.loads(Mirror(address).read_text(LEASE))["start"] == "other"


def test_a_pipeline_in_the_store_and_its_model_on_another_machine(store, tmp_path):
    """Stages start from the store; evaluations lie there too; a model there is measured elsewhere alike."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: small\ndata: {train_limit: 300}\nmodel: {width: 8, projection_dim: 16}\nscaling: {workers: 0, threads: 1}\n"
        "schedule: {epochs: 1, batch_size: 64}\nvalidation: {steps: 0}\ntracking: {tensorboard: false}\n"
        "attack: {steps: 1, eps: 8/255, step_size: 4/255}\npretrain: {}\nfinetune: {}\nevaluate: {attacks: [pgd-2]}\n"
    )
    address = store.address("stages")
    pipeline = [COMMAND[0], str(ROOT / "jobs/pipeline.py"), "--config", str(recipe)]
    code, out, err = run(address, tmp_path / "one", command=pipeline)
    assert code == 0, err
    names = store.files("stages/small")
    assert {"summary.json", "pretrain/summary.json", "finetune/model/model.safetensors"} <= set(names)
    assert "evaluate/finetune/evaluation/per_image.parquet" in names
    assert not [name for name in names if name.startswith("pretrain/pretrain")]
    code, out, err = run(address, tmp_path / "two", command=pipeline)
    assert code == 0, err
    assert out.count("already finished") == 2
    evaluate = [COMMAND[0], str(ROOT / "jobs/evaluate.py"), "--model", address.replace("/stages", "/stages/small/finetune")]
    evaluate += ["--attacks", "pgd-2", "--scaling.workers", "0", "--scaling.threads", "1"]
    code, _, err = run(str(tmp_path / "here"), tmp_path / "three", command=evaluate)
    assert code == 0, err
    measured = json.loads((tmp_path / "here/run/evaluation/summary.json").read_text())
    stored = json.loads(Mirror(store.address("stages/small/evaluate/finetune")).read_text("evaluation/summary.json"))
    assert {**measured, "model": stored["model"], "seconds": stored["seconds"]} == stored


def test_what_is_no_place_for_runs_is_said_before_anything_starts(store, tmp_path):
    for options, words in (
        (["--checkpoint.mirror", f"file://{tmp_path}/m"], "leave out one"),
        (["--runs_dir", "s3://key:hidden@bucket/x"], "holds a secret"),
        (["--runs_dir", "nowhere://bucket/x"], "nowhere"),
    ):
        code, _, err = run(store.address("bad"), tmp_path / "machine", *options)
        assert code == 2
        assert words in err
        assert "hidden" not in err
    assert not list(tmp_path.iterdir())
    assert store.files("bad") == []


def test_names_that_lead_elsewhere_are_not_followed(store, tmp_path):
    """Whoever can write to a store could otherwise write anywhere on a machine that reads from it."""
    import boto3

    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{store.port}", region_name="us-east-1")
    for name in ("evil/run/provenance.json", "evil/run/model/../../../../../../../../escaped"):
        client.put_object(Bucket="bucket", Key=name, Body=b'{"starts": [{"start": "x"}]}')
    code, _, err = run(store.address("evil"), tmp_path / "machine")
    assert code == 2
    assert "leads elsewhere" in err
    evaluate = [COMMAND[0], str(ROOT / "jobs/evaluate.py"), "--model", store.address("evil/run")]
    code, _, err = run(str(tmp_path / "here"), tmp_path / "machine", command=evaluate)
    assert code == 2
    assert "leads elsewhere" in err
    assert not list(tmp_path.rglob("escaped"))


def test_what_is_no_run_at_an_address_is_told(store, tmp_path):
    """Half a record, a specification that is none, and no folder for working copies."""
    for name, text in (("provenance.json", b'{"sta'), ("config.yaml", b"- a list"), ("config.yaml", b"a: [")):
        with store.filesystem().open_output_stream(f"bucket/odd/run/{name}") as stream:
            stream.write(text)
        with store.filesystem().open_output_stream("bucket/odd/run/metrics.jsonl") as stream:
            stream.write(b"")
        code, _, err = run(store.address("odd"), tmp_path / "machine")
        assert code in (1, 2)
        assert "s3://bucket/odd" in err
    finetune = [COMMAND[0], str(ROOT / "jobs/finetune.py"), "--init", store.address("odd/run")]
    for machine in (tmp_path / "machine", "/dev/null/x"):
        code, _, err = run(str(tmp_path / "here"), machine, command=finetune)
        assert code == 2
        assert "init" in err
