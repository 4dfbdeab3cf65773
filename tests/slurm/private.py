"""A real Slurm of one's own: two nodes and accounting on this machine, in one folder, beside whatever else runs here.

    python -m tests.slurm.private up [FOLDER]     # by default /tmp/afa-slurm; `make slurm-up`
    python -m tests.slurm.private down [FOLDER]   # `make slurm-down`

Needs Debian's slurm-wlm, slurmdbd, munge and mariadb-server, and root (slurmd starts jobs of several users). Every
service has its own configuration, port, key and data in FOLDER: a Slurm that the machine already has is not touched.
Partitions: main (the default; its jobs give way), urgent, and short (an hour at most).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
NODES = ("c1", "c2")
CPUS = 8
"""Of each node, for Slurm; the machine may have fewer."""

MEMORY_MB = 8192
MOST_ELEMENTS = 5
"""Of one job array: MaxArraySize less one, small so that arrays have to be cut."""

SERVICES = ("slurmd", "slurmctld", "slurmstepd", "munged", "mariadbd")

_CONF = """\
ClusterName=afa
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={c1}
SlurmUser={user}
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=10
KillWait=15
MinJobAge=600
MaxArraySize={array}
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge/socket
AccountingStorageEnforce=associations
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60 DefMemPerCPU=512
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF DefMemPerCPU=512
PartitionName=short Nodes=c1 MaxTime=60 State=UP PriorityTier=1 PreemptMode=OFF DefMemPerCPU=512
"""

_DBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct_db
"""


class PrivateSlurm:
    """The services in `folder`. `environment` is what commands need in order to reach them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def up(self) -> None:
        """Start everything and wait until both nodes are idle; a folder that is in use is an error."""
        missing = [name for name in PROGRAMS if not shutil.which(name, path=_PATH)]
        if missing or os.geteuid() != 0:
            raise SystemExit(f"needs root and slurm-wlm, slurmdbd, munge, mariadb-server (not found: {', '.join(missing)})")
        if self.processes():
            raise SystemExit(f"a Slurm runs in {self.folder} already; stop it with down")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        for name in ("munge", "state", "sql", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        self._configure()
        self._start_munge()
        self._start_database()
        self._start("slurmdbd", "-D")
        self._wait("slurmdbd", lambda: self._ok("sacctmgr", "-n", "show", "cluster"))
        self._ask("sacctmgr", "-i", "add", "cluster", "afa", allowed=(0, 1))
        self._ask("sacctmgr", "-i", "add", "account", "lab", "Cluster=afa")
        self.add_user("root")
        self._start("slurmctld", "-D")
        for node in NODES:
            self.start_node(node)
        self._wait("the nodes", lambda: sorted(self.states()) == [(node, "IDLE") for node in NODES])

    def add_user(self, name: str) -> None:
        """Let a user of this machine submit jobs, in the account `lab`."""
        self._ask("sacctmgr", "-i", "add", "user", name, "Account=lab", "Cluster=afa", allowed=(0, 1))

    def start_node(self, name: str) -> None:
        self._start("slurmd", "-D", "-N", name, log=f"slurmd-{name}")

    def kill_node(self, name: str) -> None:
        """Kill a node's slurmd and all that it runs, as a crash of the machine would."""
        victims = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if process.name() == "slurmd" and name in process.cmdline():
                    victims.insert(0, process)
                elif process.environ().get("SLURMD_NODENAME") == name:
                    stepd = next((parent for parent in process.parents() if "slurmstepd" in parent.name()), process)
                    victims += [stepd, process]
        for process in victims:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def states(self) -> list[tuple[str, str]]:
        """Nodes and what they are doing: IDLE, MIXED, DOWN, ..."""
        lines = self._ask("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines()
        return [(name, state.rstrip("*").upper()) for name, state in map(str.split, lines)]

    def down(self) -> None:
        """Stop all that was started here, and what jobs left behind; the folder stays, for its logs."""
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self._ask("scancel", "--signal=KILL", "--user=root", allowed=(0, 1))
        processes = [process for process in self.processes() if process.name().startswith(SERVICES)]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)
        psutil.wait_procs(processes, timeout=3)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Our services and all that jobs started: they have our configuration in their environment, as have shells in which
        somebody works with this Slurm, and what was started there.
        """
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                mine = environment.get("SLURM_CONF") == self.environment["SLURM_CONF"]
                if mine and ("SLURM_JOB_ID" in environment or process.name().startswith(SERVICES)):
                    found.append(process)
        return found

    def _configure(self) -> None:
        ports = dict(zip(("ctld", "dbd", "sql", *NODES), _free_ports(3 + len(NODES)), strict=True))
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[name]} CPUs={CPUS} "
            f"RealMemory={MEMORY_MB} State=UNKNOWN"
            for name in NODES
        )
        values = {"folder": self.folder, "host": host, "user": "root", "nodes": nodes, "array": MOST_ELEMENTS + 1, **ports}
        self.sql_port, self.password = ports["sql"], secrets.token_hex(16)
        (self.folder / "slurm.conf").write_text(_CONF.format(**values))
        (self.folder / "slurmdbd.conf").touch(mode=0o600)
        (self.folder / "slurmdbd.conf").write_text(_DBD.format(password=self.password, **values))

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        (munge / "key").touch(mode=0o600)
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        files = [f"--{name}={munge / name.partition('-')[0]}" for name in ("key-file", "socket", "pid-file", "seed-file")]
        self._start("munged", "--foreground", "--num-threads=2", *files, f"--log-file={munge / 'log'}")
        self._wait("munged", (munge / "socket").exists)

    def _start_database(self) -> None:
        data, door = self.folder / "sql/data", self.folder / "sql/socket"
        self._ask("mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db")
        options = [f"--datadir={data}", f"--socket={door}", f"--port={self.sql_port}", "--bind-address=127.0.0.1"]
        self._start("mariadbd", "--no-defaults", "--user=root", "--innodb-buffer-pool-size=64M", *options)
        client = ["mariadb", "--no-defaults", f"--socket={door}", "--user=root"]
        self._wait("mariadbd", lambda: self._ok(*client, "-e", "SELECT 1"))
        grant = f"CREATE USER slurm IDENTIFIED BY '{self.password}'; GRANT ALL ON slurm_acct_db.* TO slurm"
        self._ask(*client, "-e", grant)

    def _start(self, *command: str, log: str = "") -> None:
        with (self.folder / f"{log or command[0]}.out").open("a") as out:
            program = shutil.which(command[0], path=_PATH) or command[0]
            subprocess.Popen(
                [program, *command[1:]], stdout=out, stderr=out, env=self.environment, start_new_session=True, cwd="/"
            )

    def _ok(self, *command: str) -> bool:
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def _ask(self, *command: str, allowed: Sequence[int] = (0,)) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode not in allowed:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _wait(self, what: str, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} did not come up within {seconds:g} s; see the logs in {self.folder}")
            time.sleep(0.2)


_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    action, *rest = sys.argv[1:] or [""]
    slurm = PrivateSlurm(Path(rest[0] if rest else "/tmp/afa-slurm").absolute())
    if action == "up":
        slurm.up()
        print(f"export SLURM_CONF={slurm.environment['SLURM_CONF']}")
    elif action == "down":
        slurm.down()
    else:
        raise SystemExit(__doc__)
