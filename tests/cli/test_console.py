"""What a person reads."""

import pytest

from afa_dist.cli.console import describe_row, pixels


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
