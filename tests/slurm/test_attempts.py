"""How often a job may begin again: counted by kind, ended where nothing is saved."""

import json

import pytest

from cluster.slurm.attempts import LOSS, PREEMPTION, REFUSED, TIMEOUT, Attempts, Limits, saved_in

LIMITS = Limits(timeouts=2, preemptions=3, losses=1, idle=3)


def test_kinds_are_counted_apart(tmp_path):
    attempts = Attempts(tmp_path / "a.jsonl", LIMITS)
    for number, kind in enumerate([TIMEOUT, PREEMPTION, TIMEOUT, PREEMPTION, PREEMPTION]):
        assert attempts.begin(f"saved {number}", number) == ""
        attempts.end(kind)
        assert attempts.may_go_on() == ""
    assert attempts.begin("more", 5) == ""
    attempts.end(TIMEOUT)
    assert "3 times by now (max_timeouts 2)" in attempts.may_go_on()
    assert "max_timeouts 2" in attempts.begin("still more", 6)


def test_a_start_that_does_not_end_is_a_loss(tmp_path):
    attempts = Attempts(tmp_path / "a.jsonl", LIMITS)
    assert attempts.begin("a", 0) == ""
    assert attempts.begin("b", 1) == ""  # nobody has told the end of the first: its node is gone
    assert "its node or its process was lost, 2 times by now (max_losses 1)" in attempts.begin("c", 2)


@pytest.mark.parametrize("kind", [TIMEOUT, PREEMPTION])
def test_a_run_that_saves_nothing_ends(tmp_path, kind):
    attempts = Attempts(tmp_path / "a.jsonl", Limits(99, 99, 99, idle=3))
    for number in range(3):
        assert attempts.begin("the same", number) == ""
        attempts.end(kind, "SIGUSR2")
    reason = attempts.begin("the same", 3)
    assert "3 starts in a row saved nothing (max_idle 3)" in reason and "SIGUSR2" in reason
    assert attempts.begin("something", 4) == ""


def test_starts_that_were_refused_are_not_idle(tmp_path):
    """The start before, on a node that Slurm has given up, may hold the run for a while."""
    attempts = Attempts(tmp_path / "a.jsonl", Limits(99, 99, 99, idle=2))
    for number in range(5):
        assert attempts.begin("the same", number) == ""
        attempts.end(LOSS, "it refused to start", REFUSED)
    assert attempts.losses_in_a_row() == 5
    assert attempts.begin("the same", 5) == ""
    attempts.end(TIMEOUT)
    assert attempts.losses_in_a_row() == 0
    assert attempts.starts() == 6


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
    attempts = Attempts(tmp_path / "a.jsonl", LIMITS)
    attempts.begin("a", 0)
    attempts.end(TIMEOUT)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"began": "20')
    assert [event.get("ended", "began") for event in attempts.events()] == ["began", TIMEOUT]
    assert LOSS not in json.dumps(attempts.events())


def test_what_is_saved_is_told_from_what_passes(tmp_path):
    checkpoint = tmp_path / "checkpoints/step-00000010"
    checkpoint.mkdir(parents=True)
    before = saved_in(tmp_path)
    for passing in ("lock", "metrics.jsonl", "provenance.json", "tensorboard/events", ".aside/x", "a/.x.tmp"):
        (tmp_path / passing).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / passing).write_text("x")
    assert saved_in(tmp_path) == before
    (checkpoint / "model.safetensors").write_text("x")
    assert saved_in(tmp_path) != before
    assert saved_in(tmp_path / "nowhere") == saved_in(tmp_path / "also nowhere")
