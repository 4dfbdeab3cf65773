"""A Ray cluster of several nodes on this machine, which can be lost."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.conftest import free_port
from tests.object_store import KEYS


class TwoNodes:
    """A cluster of its own on this machine: a head node for the driver, and nodes that come and go, one CPU each.

    Each has a folder of its own for working copies, as if it were a machine of its own.
    """

    def __init__(self, folder: Path, head_cpus: int = 1) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[subprocess.Popen] = []
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_text("2" * 64)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_ADDRESS": self.address}
        # Ray looks for drained nodes every 5 s otherwise.
        self.env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "OMP_NUM_THREADS": "1"}
        self.env |= {"DASHBOARD_METRIC_PORT": "-1", "AUTOSCALER_METRIC_PORT": "-1"}  # their pages answer anybody
        self.env |= KEYS
        self.start_head(head_cpus)

    def start_head(self, cpus: int, *options: str) -> None:
        port = self.address.partition(":")[2]
        where = [f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder / 'r'}"]
        self.start("--head", *where, *options, cpus=cpus)

    def start(self, *options: str, cpus: int = 1) -> subprocess.Popen:
        log = self.folder / f"node-{len(self.nodes)}.log"
        command = [Path(sys.executable).parent / "ray", "start", "--block", f"--num-cpus={cpus}"]
        command += [
            "--node-ip-address=127.0.0.1",
            "--object-store-memory=200000000",
            "--dashboard-agent-listen-port=0",
            "--disable-usage-stats",
            *options,
        ]
        command += ["--resources", json.dumps({f"n{len(self.nodes)}": 1})]
        with log.open("w") as file:
            env = {**self.env, "XDG_CACHE_HOME": str(self.cache(len(self.nodes)))}
            node = subprocess.Popen(command, stdout=file, stderr=file, env=env, start_new_session=True)
        self.nodes.append(node)
        wait_for(lambda: "Ray runtime started" in log.read_text(), node, 60, log)
        return node

    def cache(self, number: int) -> Path:
        return self.folder / f"cache-{number}"

    def add(self, *options: str) -> subprocess.Popen:
        return self.start(f"--address={self.address}", *options)

    def drain(self, number: int) -> None:
        """Ray's notice that a node is about to be taken away, as a cloud or Slurm would give it."""
        find = "import ray; ray.init(logging_level='ERROR')\n"
        find += f"print(*(node['NodeID'] for node in ray.nodes() if 'n{number}' in node['Resources']))"
        python = Path(sys.executable)
        found = subprocess.run([python, "-c", find], env=self.env, capture_output=True, text=True, check=True, timeout=60)
        command = [python.parent / "ray", "drain-node", "--address", self.address, "--node-id", found.stdout.strip()]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        subprocess.run([*command, "--deadline-remaining-seconds", "100"], env=self.env, check=True, timeout=60)

    def kill(self, node: subprocess.Popen) -> None:
        """SIGKILL to all of a node's processes: the machine is gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        node.wait(timeout=30)

    def close(self) -> None:
        for node in reversed(self.nodes):
            self.kill(node)


class FakeCloud(TwoNodes):
    """A head without CPUs, and Ray's own autoscaler, which starts up to `most` nodes of one CPU on this machine."""

    def __init__(self, folder: Path, most: int) -> None:
        self.most = most
        super().__init__(folder, head_cpus=0)

    def start_head(self, cpus: int, *options: str) -> None:
        from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

        kinds = {
            "ray.head.default": {"resources": {"CPU": cpus}, "node_config": {}, "max_workers": 0},
            "spot": {"resources": {"CPU": 1, "object_store_memory": 2e8}, "node_config": {}, "max_workers": self.most},
        }
        for kind in kinds.values():
            kind["min_workers"] = 0
        fake = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
        provider = {"type": "external", "module": fake, "gcs_address": self.address, "head_node_id": FAKE_HEAD_NODE_ID}
        provider |= {"launch_multiple": True}
        provider |= {"disable_node_updaters": True, "disable_launch_config_check": True, "use_node_id_as_ip": True}
        config = {
            "cluster_name": "fake",
            "max_workers": self.most,
            "provider": provider,
            "head_node_type": "ray.head.default",
        }
        config |= {"available_node_types": kinds, "auth": {}, "idle_timeout_minutes": 1, "upscaling_speed": 9.0}
        config |= {"file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False}
        config |= {f"{kind}_commands": [] for kind in ("initialization", "setup", "head_setup", "worker_setup")}
        config |= {f"{kind}_start_ray_commands": [] for kind in ("head", "worker")}
        (self.folder / "fake.json").write_text(json.dumps(config))
        self.env |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        # The second version, which is that of KubeRay's and of `ray up`.
        self.env |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID}
        self.env |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}
        super().start_head(cpus, f"--autoscaling-config={self.folder / 'fake.json'}")

    def close(self) -> None:
        """The autoscaler's nodes are no children of the head."""
        super().close()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in word for word in process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@contextlib.contextmanager
def nodes_of(kind=TwoNodes, **options):
    with tempfile.TemporaryDirectory(prefix="afa2", dir="/tmp") as folder:  # Ray's sockets need a short path
        cluster = kind(Path(folder), **options)
        try:
            yield cluster
        finally:
            cluster.close()


def wait_for(condition, process, seconds, log):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
