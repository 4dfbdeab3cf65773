"""What becomes of elements of an array that did not end well. Needs no Slurm: what Slurm would be told is looked at."""

import json
from pathlib import Path

import pytest

from afa_dist.config.fields import to_mapping
from cluster.slurm import finish
from cluster.slurm.here import placed
from cluster.slurm.jobs import Job, write_job
from cluster.slurm.request import ContainerConfig, Request
from cluster.slurm.store import Store
from cluster.slurm.submit import Submitter

LOST = {"job": "5_1"}
ENDS = [
    ([{"kind": "loss", "code": 1}, LOST, {"kind": "failed", "code": 1}], ""),
    ([LOST, {"kind": "cancelled", "code": 143}, LOST], "some were cancelled"),
    ([LOST, {"kind": "failed", "code": 2}, LOST], "some were refused by the job itself"),
    ([LOST, None, LOST], "some never began"),
]


@pytest.fixture
def submission(tmp_path):
    """A folder of an array of four elements, of which the first has ended well."""
    store = Store.at(str(tmp_path / "store"))
    folder = store.new_folder(str(tmp_path / "runs/e"))
    request = Request(time="5", array=4, folder=str(store.path))
    values = {"place": str(tmp_path / "runs/e"), "request": to_mapping(request)}
    (folder / "request.json").write_text(json.dumps(values))
    write_job(Job("evaluate", {"runs_dir": str(tmp_path / "runs"), "name": "e"}), folder, "evaluate")
    (folder / "evaluate-1.state").write_text(json.dumps({"kind": "done", "code": 0}))
    return folder


@pytest.mark.parametrize(("states", "why"), ENDS)
def test_only_what_was_lost_is_tried_again(submission, states, why, monkeypatch, capsys):
    for number, state in enumerate(states, 2):
        if state is not None:
            (submission / f"evaluate-{number}.state").write_text(json.dumps(state))
    asked = []
    monkeypatch.setattr(Submitter, "retry", lambda self, name, wanted, again, own: asked.append((wanted, again, own)) or 0)
    for name, value in (("SLURM_ARRAY_JOB_ID", ""), ("SLURM_JOB_ID", "77"), ("SLURM_MEM_PER_NODE", "5")):
        monkeypatch.setenv(name, value)
    code = finish.main(submission, "evaluate", 0)
    said = capsys.readouterr().err
    assert (code, asked) == ((1, []) if why else (0, [([2, 3, 4], 1, "77")]))
    assert why in said


def test_nothing_is_submitted_twice(submission, monkeypatch):
    """The job that tries again may be requeued itself, after it has submitted or in the middle of it."""
    (submission / "waiting.json").write_text(json.dumps({"90": ["77", "80"], "77": []}))
    sent, told = [], []
    monkeypatch.setattr("cluster.slurm.submit.most_elements", lambda: 100)
    monkeypatch.setattr("cluster.slurm.submit.ask", lambda *words: told.append(words))
    monkeypatch.setattr(Submitter, "_sent", lambda self, executor, works, what: sent.append(len(works)) or "81")
    for _ in range(2):
        store = Store.at(str(submission.parents[1]))
        submitter = Submitter(store, Request(time="5", array=4), "runs/e", submission, Path.cwd())
        assert submitter.retry("evaluate", [2, 4], 1, "77") == 0
    assert sent == [2, 1]  # two elements, and what puts all together
    assert told == [("scontrol", "update", "JobId=90", "Dependency=afterok:81:80")]
    (submission / "retry-evaluate-1.json").write_text("{}")
    assert submitter.retry("evaluate", [2, 4], 1, "77") == 1
    assert sent == [2, 1]


def test_commands_in_containers_run_where_they_are(submission, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    request = Request(time="5", array=4, container=ContainerConfig(kind="pyxis", image="x"))
    submitter = Submitter(Store(submission.parents[1]), request, "s3://bucket/e", submission, Path.cwd())
    command = placed(submitter.merge_command("evaluate"))
    assert "--nodelist=n7" in command
    assert not [word for word in command if "{node}" in word]
