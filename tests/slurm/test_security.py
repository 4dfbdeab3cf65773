"""Who can reach what a job opens, and what is written where: on two nodes, with jobs of two users at once."""

import json
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import psutil
import pytest

from cluster.slurm.ports import HIGHEST, LOWEST
from tests.slurm.conftest import clean
from tests.slurm.desk import ROOT, SMALL, Desk

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

LONG = [*SMALL, "--schedule.epochs", "2000", "--scaling.workers", "2"]
NAME = "a b'$(touch oops)"
OTHER = "afa-other"
METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo",
    "InternalKVGcsService/InternalKVKeys",
    "NodeManagerService/GetSystemConfig",
    "CoreWorkerService/GetCoreWorkerStats",
)
OTHERS = re.compile(r"^srun |RayTrainWorker")
"""Ports that are not Ray's: Slurm's own, and those that torch opens between the workers of one group."""


@pytest.fixture(scope="module")
def other(slurm, tmp_path_factory):
    """A second user of the machine, who need not be able to read where the first one's project and Python are."""
    if subprocess.run(["id", OTHER], capture_output=True).returncode:
        subprocess.run(["useradd", "--system", "--no-create-home", OTHER], check=True)
    slurm.add_user(OTHER)
    with tempfile.TemporaryDirectory(prefix="afa-other-", dir="/tmp") as name:
        folder, root = Path(name), Path(name) / "project"
        folder.chmod(0o755)
        root.mkdir()
        python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run([python, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        subprocess.run(["mount", "--bind", ROOT, root], check=True)
        try:
            packages = root / Path(sysconfig.get_path("purelib")).relative_to(ROOT)
            (site,) = (folder / "venv/lib").glob("python*/site-packages")
            (site / "project.pth").write_text(f"{packages}\n")
            (folder / "home").mkdir()
            environment = {**clean(slurm.environment), "PATH": f"{folder / 'venv/bin'}:/usr/bin:/bin"}
            desk = Desk(folder / "home", environment, OTHER, str(folder / "venv/bin/python"), root)
            subprocess.run(["chown", "-R", OTHER, folder / "home"], check=True)
            yield desk
        finally:
            subprocess.run(["umount", "--lazy", root], check=True)


@pytest.fixture(scope="module")
def running(slurm, other, tmp_path_factory):
    """Two users' jobs, each on both nodes, at once."""
    mine = Desk(tmp_path_factory.mktemp("mine"), clean(slurm.environment))
    desks = {}
    for desk in (mine, other):
        recipe = ["--config", Path(desk.environment["PYTHONPATH"]) / "recipes/digits.yaml"]
        (job,) = desk.submit("pretrain", "--nodes", 2, "--", *recipe, *LONG, "--name", NAME)
        desks[job] = desk
    for job, desk in desks.items():
        desk.until(lambda desk=desk: desk.step(NAME) > 0, f"a checkpoint of job {job}", 200)
    yield desks
    for job, desk in desks.items():
        desk.slurm("scancel", job)
        desk.wait(job)
        assert not processes_of(job)


def processes_of(job):
    found = []
    for process in psutil.process_iter(["environ", "uids", "name"]):
        if (process.info["environ"] or {}).get("SLURM_JOB_ID") == job:
            found.append(process)
    return found


def listeners(job):
    """Sockets that a job's processes listen on: address, port, process."""
    return [
        (connection.laddr.ip, connection.laddr.port, process.name() + " " + " ".join(process.cmdline())[-60:])
        for process in processes_of(job)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def address_of(desk):
    (found,) = desk.store.glob("*/*/start-*/address.json")
    return json.loads(found.read_text()), found.parent / "token"


def test_two_users_on_the_same_nodes_do_not_meet(running):
    (first, mine), (second, theirs) = running.items()
    ports = [{port for _, port, _ in listeners(job)} for job in (first, second)]
    assert ports[0] and ports[1] and not ports[0] & ports[1]
    tokens = [address_of(desk)[1] for desk in (mine, theirs)]
    assert tokens[0].read_text() != tokens[1].read_text()
    for token in tokens:
        assert token.stat().st_mode & 0o777 == 0o600
    for desk in (mine, theirs):
        assert not (desk.folder / "oops").exists()
        assert desk.store.stat().st_mode & 0o777 == 0o700
    assert {process.uids().real for process in processes_of(second)} == {theirs.store.stat().st_uid} != {0}


def test_the_token_is_on_no_command_line_and_in_no_log(running):
    for job, desk in running.items():
        token = address_of(desk)[1].read_text()
        for process in processes_of(job):
            assert token not in " ".join(process.cmdline())
        for path in [*desk.store.glob("*/*/*.out"), *desk.store.glob("*/*/start-*/*.log")]:
            assert token not in path.read_text(errors="replace")
        name = address_of(desk)[0]["tmp"]
        place = Path("/tmp") / name
        for path in place.rglob("*.log"):
            assert token not in path.read_text(errors="replace"), path
        assert place.stat().st_mode & 0o777 == 0o700


def test_every_port_is_known_and_refuses_strangers(running):
    """Each port that a job listens on is one that we asked for, or on loopback alone; none answers without the token."""
    job, desk = next(iter(running.items()))
    found = listeners(job)
    gcs = int(address_of(desk)[0]["address"].rpartition(":")[2])
    unknown = [one for one in found if one[0] not in ("127.0.0.1", "::1") and not LOWEST <= one[1] < HIGHEST]
    assert [one for one in unknown if not OTHERS.search(one[2])] == []
    dashboard = gcs + 1
    assert [ip for ip, port, _ in found if port == dashboard] == ["127.0.0.1"]
    for headers in ({}, {"Authorization": "Bearer " + "0" * 64}):
        request = urllib.request.Request(f"http://127.0.0.1:{dashboard}/api/jobs/", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code in (401, 403)
    for _, port, who in found:
        if answer := over_http(port):
            assert re.match(r"HTTP/1\.[01] (401|403|404|405)", answer), (port, who, answer)
    refusals = {port: over_grpc(port) for port in sorted({port for _, port, _ in found})}
    assert [port for port, codes in refusals.items() if "OK" in codes] == []
    assert "UNAUTHENTICATED" in refusals[gcs]
    assert sum("UNAUTHENTICATED" in codes for codes in refusals.values()) > 4  # raylets and workers too
    program = f"import ray; ray.init('127.0.0.1:{gcs}', log_to_driver=False); print(ray.nodes())"
    environment = clean(desk.environment)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "NodeID" not in done.stdout


def over_grpc(port):
    """What the services of Ray on a port answer to calls without a token, and with a wrong one."""
    codes = set()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in METHODS:
            for metadata in ((), (("authorization", "Bearer " + "0" * 64),)):
                try:
                    channel.unary_unary(f"/ray.rpc.{method}")(b"", metadata=metadata, timeout=2)
                    codes.add("OK")
                except grpc.RpcError as error:
                    codes.add(error.code().name)
                if codes <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
                    return codes  # it does not speak gRPC
    return codes


def over_http(port):
    """The first line that a port answers to a plain request; empty if it speaks no HTTP."""
    with socket.socket() as client:
        client.settimeout(5)
        try:
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = client.recv(200).decode("latin1")
        except OSError:
            return ""
    return answer.splitlines()[0] if answer.startswith("HTTP/1") else ""
