"""What a person reads."""

import pytest

from afa_dist.cli.console import StageProgress, pixels
from afa_dist.cli.words import describe_row, duration


@pytest.mark.parametrize(
    ("distance", "text"), [(8 / 255, "8/255"), (0.2, "0.2"), (0.0, "0"), (0.031, "0.031"), (1.5, "1.5")]
)
def test_pixel_distances_are_shown_as_people_write_them(distance, text):
    assert pixels(distance) == text


def test_a_row_shows_accuracies_as_per_cent_and_leaves_out_what_the_bar_shows():
    row = {
        "step": 3,
        "epoch": 0.3,
        "of": 10,
        "phase": "train",
        "loss": 1.23456,
        "probe_robust_acc": 0.5,
        "lr": 0.1,
        "eps": 0.2,
    }
    assert describe_row(row) == "loss 1.235  probe robust 50.0 %"


@pytest.mark.parametrize(("seconds", "text"), [(5.2, "5 s"), (100, "2 min"), (7300, "2 h 2 min")])
def test_durations_are_shown_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_lines_of_a_log_say_how_long_it_will_take_and_the_eps_that_is_growing(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("afa_dist.cli.console.time.monotonic", lambda: clock[0])
    progress = StageProgress("pretrain")
    for step in (10, 20, 40, 100):
        clock[0] = 6.0 * step
        progress.on_row({"step": step, "epoch": 1.0, "of": 100, "phase": "train", "loss": 1.0, "eps": min(step, 40) / 255})
    lines = capsys.readouterr().out.splitlines()
    assert "about" not in lines[0]  # after the first row there is no speed yet
    assert "about 8 min left" in lines[1] and lines[1].endswith("eps 20/255")
    assert "about 6 min left" in lines[2]
    assert "left" not in lines[3] and "eps" not in lines[3]
