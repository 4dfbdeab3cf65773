"""Shared by all tests: one thread, no foreign cluster, one Ray cluster for the whole session."""

import contextlib
import os

# A cluster that the developer happens to address must not take part.
for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "WORLD_SIZE", "RANK"):
    os.environ.pop(name, None)

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from afa_dist.config import DataConfig, ScalingConfig
from afa_dist.data.catalogue import DataSplits, load_splits
from afa_dist.runtime.cluster import private_folder, session

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> DataSplits:
    return load_splits(DataConfig())


@pytest.fixture(scope="session")
def ray_cluster():
    """A token-protected cluster of two CPUs with a dashboard, shared by all tests that need Ray; this process joins it."""
    folder = private_folder()
    ports = {name: free_port() for name in ("gcs", "dashboard")}
    # Ray takes its authentication from the environment when it is imported.
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(folder / "token"),
        RAY_TMPDIR=str(folder / "ray"),
        DASHBOARD_METRIC_PORT="-1",
        AUTOSCALER_METRIC_PORT="-1",
        RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{ports['dashboard']}",
    )
    bin_folder = Path(sys.executable).parent
    command = [bin_folder / "ray", "start", "--head", "--block", "--num-cpus=2", f"--port={ports['gcs']}"]
    command += [f"--temp-dir={folder / 'ray'}", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports['dashboard']}"]
    command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"  # jobs call `python`
    with (folder / "ray-start.log").open("w") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PATH": path}, start_new_session=True)
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{ports['gcs']}"
    try:
        wait_for_port(ports["dashboard"], head, folder / "ray-start.log")
        with session(ScalingConfig(workers=1, threads=1)):
            yield
    finally:
        del os.environ["RAY_ADDRESS"]
        # Ours alone, by descent: `ray stop` would end every cluster of this user.
        for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait(timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ray start failed:\n{log.read_text()}"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"no dashboard after {seconds} s:\n{log.read_text()}")


@pytest.fixture(scope="session")
def trained(trained_run):
    """A small classifier of digits with some robustness, trained in a few seconds."""
    from afa_dist.models.export import load_classifier

    return load_classifier(trained_run.model).net


@pytest.fixture(scope="session")
def trained_run(digits, tmp_path_factory):
    """The run directory of `trained`."""
    from afa_dist.config import (
        ClassifierAttackConfig,
        FinetuneRun,
        ModelConfig,
        OptimiserConfig,
        ScheduleConfig,
        ValidationConfig,
    )
    from afa_dist.distributed import World
    from afa_dist.training.job import train
    from afa_dist.training.run_dir import RunDirectory

    run = FinetuneRun(
        mode="full",
        model=ModelConfig(width=8, norm="group"),
        attack=ClassifierAttackConfig(eps=0.1, steps=2, step_size=0.075),
        optimiser=OptimiserConfig(lr=0.1),
        schedule=ScheduleConfig(epochs=6, batch_size=64, warmup=0.1),
        validation=ValidationConfig(every_epochs=6, steps=2),
    )
    torch.set_num_threads(1)
    directory = RunDirectory(tmp_path_factory.mktemp("trained") / "run")
    directory.create(run, {})
    train(run, digits, directory, World(), on_row=lambda row: None)
    return directory


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, driven by playwright."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "this test needs a browser: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def diffusion_model(digits, tmp_path_factory):
    """The folder of a pipeline that knows the digits' classes, with weights as they were drawn: its images are noise, and
    the same noise every time."""
    from afa_dist.config import DiffusionRun, UNetConfig
    from afa_dist.diffusion.denoiser import build_denoiser
    from afa_dist.diffusion.export import save_pipeline
    from afa_dist.training.job import data_shape

    torch.manual_seed(0)
    run = DiffusionRun(network=UNetConfig(channels=8, multipliers=(1, 2), layers=1, attention=(), head_channels=8))
    net = build_denoiser(run.network, run.edm, data_shape(digits))
    folder = tmp_path_factory.mktemp("diffusion") / "model"
    save_pipeline(folder, net.state_dict(), run, digits, data_shape(digits))
    return folder
