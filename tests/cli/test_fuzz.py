"""Hundreds of wrong options and damaged data files: each is answered with exit code 2 and a few words that name it."""

import random
import sys
import typing

import pytest

from afa_dist.cli import analysing, evaluating, training
from afa_dist.cli.specification import leaves
from afa_dist.config import AnalyseRun, EvaluateRun, FinetuneRun, PretrainRun
from afa_dist.config.fields import Section, strip_annotation
from tests.cli.test_mistakes import check_message, job
from tests.data import test_parquet

JOBS = {
    "pretrain.py": (PretrainRun, lambda: training.main(PretrainRun, "pretrain", "pretrain.py", "")),
    "finetune.py": (FinetuneRun, lambda: training.main(FinetuneRun, "finetune", "finetune.py", "")),
    "evaluate.py": (EvaluateRun, lambda: evaluating.main("evaluate.py", "")),
    "analyse.py": (AnalyseRun, lambda: analysing.main("analyse.py", "")),
}
WRONG_NUMBERS = [
    "",
    "ten",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "0x10",
    "1,5",
    "--",
    "[1]",
    "{}",
    "None",
    "1 2",
    "\u0663\u00bd",
    "8/0",
    "/",
]
WRONG_CHOICES = ["", "perhaps", "[]", "FP32 ", "0", "on,off", "None", "ünïcödé"]


def wrong_values(hint: object, field: object) -> list[str]:
    """Texts that cannot be values of an option; empty where any text can be one (names, paths)."""
    kind = typing.get_origin(hint) or hint
    metadata = field.metadata
    if kind in (int, float):
        edges = []
        if metadata.get("ge") is not None:
            edges.append(str(metadata["ge"] - 1))
        if metadata.get("gt") is not None:
            edges += [str(metadata["gt"]), "-7"]
        if metadata.get("le") is not None:
            edges.append(str(metadata["le"] + 1))
        return [*WRONG_NUMBERS, *edges, *(["1.5"] if kind is int else [])]
    if kind is bool:
        return ["", "perhaps", "2", "None", "yes no"]
    if kind is typing.Literal:
        return WRONG_CHOICES
    return []


def wrong_options(cls: type[Section]) -> list[tuple[str, list[str]]]:
    """(option, the arguments that give it a wrong value) for every option of `cls`, and some that are none."""
    cases = []
    for name, hint, field in leaves(cls):
        cases += [(name, [f"--{name}={text}"]) for text in wrong_values(hint, field)]
        cases.append((f"{name}x", [f"--{name}x", "1"]))
        if "." in name and strip_annotation(hint) is not bool:
            cases.append((name, [f"--{name}"]))  # without a value, which switches do not need
    return cases


ALL = [(script, *case) for script, (cls, _) in JOBS.items() for case in wrong_options(cls)]
SAMPLE = random.Random(0).sample(ALL, 220)


@pytest.fixture
def nothing_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_are_answered_by_name(nothing_left, monkeypatch, capsys):
    """Of all combinations of option and wrong text, so many by lot, in this process."""
    assert len(ALL) > 1000
    for script, option, arguments in SAMPLE:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        code = JOBS[script][1]()
        message = capsys.readouterr().err
        check_message(code, message, option)
        assert len(message.splitlines()) < 10
    with capsys.disabled():
        print(f"\n{len(SAMPLE)} of {len(ALL)} wrong options, each answered")


def test_the_real_command_line_answers_alike(tmp_path):
    """A sample by processes of their own, many mistakes in each: all are named, in one go."""
    rng = random.Random(1)
    for script in JOBS:
        chosen = rng.sample([case for case in ALL if case[0] == script and case[2][0].count("=")], 7)
        unique = {option: arguments for _, option, arguments in chosen}
        done = job(script, *(word for arguments in unique.values() for word in arguments), cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        for option in unique:
            assert option in done.stderr
    assert list(tmp_path.iterdir()) == []


def damages(folder, rng):
    """Do something to a folder of good Parquet files that no reader may overlook."""
    files = sorted(folder.glob("*.parquet"))
    file = rng.choice(files)
    data = file.read_bytes()
    kind = rng.randrange(8)
    if kind == 0:
        file.write_bytes(data[: rng.randrange(len(data) - 4)])
    elif kind == 1:
        file.write_bytes(bytes(len(data)))
    elif kind == 2:
        file.write_bytes(rng.randbytes(rng.randrange(1, 5000)))
    elif kind == 3:
        file.write_bytes(data[:-8] + rng.randbytes(4) + data[-4:])  # the length of the footer
    elif kind == 4:
        images = [test_parquet.png(p) for p in test_parquet.pixels_of(6)]
        images[rng.randrange(6)] = rng.choice([b"", rng.randbytes(50), images[0][: rng.randrange(8, 40)], None])
        test_parquet.write(file, images, [0, 0, 1, 1, 2, 2])
    elif kind == 5:
        images = [test_parquet.png(p) for p in test_parquet.pixels_of(6)]
        labels = [0, 0, 1, 1, 2, 2]
        labels[rng.randrange(6)] = rng.choice([3, -1, 2**40, None])
        test_parquet.write(file, images, labels)
    elif kind == 6:
        shape = rng.choice([(7, 5, 3), (6, 6, 3), (1, 1, 3)])
        test_parquet.write(file, [test_parquet.png(p) for p in test_parquet.pixels_of(6, shape)], [0, 0, 1, 1, 2, 2])
    else:
        columns = rng.choice([("img", "target"), ("label", "img")])
        images = [test_parquet.png(p) for p in test_parquet.pixels_of(6)]
        test_parquet.write(file, images, [0, 0, 1, 1, 2, 2], columns=columns)
    return file, kind


@pytest.mark.parametrize("case", range(60))
def test_damaged_data_files_are_answered_by_name(case, tmp_path, monkeypatch, capsys):
    folder, runs = tmp_path / "data", tmp_path / "here"
    folder.mkdir()
    runs.mkdir()
    test_parquet.good(folder)
    file, kind = damages(folder, random.Random(case))
    monkeypatch.chdir(runs)
    monkeypatch.setattr(
        sys, "argv", ["pretrain.py", "--schedule.batch_size=8", "--data.name=parquet", f"--data.path={folder}"]
    )
    code = JOBS["pretrain.py"][1]()
    # Labels and sizes are compared over all files of a split, whose first one is named.
    check_message(code, capsys.readouterr().err, str(folder) if kind in (5, 6) else file.name)
    assert list(runs.iterdir()) == []
