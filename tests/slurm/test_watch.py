"""The logs of a submission as they are shown, without a Slurm."""

from __future__ import annotations

from cluster.slurm.watch import _Reading


def test_files_that_grow_together_never_share_a_line(tmp_path, capsys):
    """Half a line, even half a letter, waits for its rest, or for the end."""
    first, second = tmp_path / "7_0_log.out", tmp_path / "7_1_log.out"
    reading = _Reading(tmp_path)
    whole = "epoch 1 of 2, ε = 8/255\n".encode()
    first.write_bytes(b"begins\n" + whole[:17])
    second.write_bytes(b"joins\n")
    reading.show(all_of_it=False)
    first.write_bytes(b"begins\n" + whole)
    second.write_bytes(b"joins\nis killed")
    reading.show(all_of_it=False)
    reading.show(all_of_it=True)
    shown = capsys.readouterr().out.splitlines()
    heads = [f"==> {path} <==" for path in (first, second, first, second)]
    assert shown == [heads[0], "begins", heads[1], "joins", heads[2], "epoch 1 of 2, ε = 8/255", heads[3], "is killed"]
    reading.show(all_of_it=True)
    assert not capsys.readouterr().out
