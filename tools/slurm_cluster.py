"""A private, real Slurm cluster on this machine, without systemd or cgroups, with pretended GPUs, for any user.

    with Cluster(folder) as cluster:
        job = cluster.run("sbatch", "--parsable", "--gres=gpu:1", "--wrap", "echo $CUDA_VISIBLE_DEVICES").strip()
        cluster.wait_for(lambda: cluster.state(job) == "COMPLETED")

To use it by hand, run `python tools/slurm_cluster.py [--accounting]` in one terminal, and what it prints in another.
"""

import argparse
import contextlib
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
ACCOUNTING_PACKAGES = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server-core"}
TABLES = [Path("/usr/share/mysql") / name for name in ("mysql_system_tables.sql", "mysql_system_tables_data.sql")]
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin"  # Debian has the daemons there, and a user's PATH may lack it
FOREIGN = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SCANCEL", "SQUEUE", "SINFO", "SACCT")  # settings in the environment

SETTINGS = [  # Slurm needs each on a line of its own
    "ClusterName=tests SlurmctldHost={host}(127.0.0.1) SlurmctldPort={ports[slurmctld]} SlurmUser={user}",
    "StateSaveLocation={short}/state SlurmctldPidFile={short}/slurmctld.pid",
    "SlurmdUser={user} SlurmdSpoolDir={short}/%n SlurmdPidFile={short}/%n.pid",
    "AuthInfo=socket={short}/munge.socket,cred_expire=5",
    # Not the default, cgroups. A job's processes are the descendants of its slurmstepd, so what a batch script leaves
    # behind escapes, and lives until the cluster is stopped. (proctrack/pgid kills it, but may wait 3 s for zombies.)
    "ProctrackType=proctrack/linuxproc",
    "SelectType=select/cons_tres SelectTypeParameters=CR_Core SlurmdParameters=config_overrides GresTypes=gpu",
    "MaxArraySize={max_array_size}",
    # Jobs start at once, and a dead node is noticed soon. ReturnToService=2 would be wrong here: the answer to a ping
    # that was sent before a node was killed can arrive after State=DOWN, and would return the dead node to service.
    "SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1",
    "KillWait=2 SlurmdTimeout=5 MessageTimeout=5 ReturnToService=1",
    # A job in `low` whose place `high` wants gets its --signal, then GraceTime seconds, then is in the queue again.
    "JobRequeue=1 PreemptType=preempt/partition_prio PreemptMode=REQUEUE SlurmctldParameters=preempt_send_user_signal",
]
NO_ACCOUNTING = ["MinJobAge=86400"]  # for a day, squeue -t all shows what has ended
ACCOUNTING = [
    "AccountingStorageType=accounting_storage/slurmdbd AccountingStorageHost=127.0.0.1",
    "AccountingStoragePort={ports[slurmdbd]} AccountingStoragePass={short}/munge.socket",
    "AccountingStorageTRES=gres/gpu JobAcctGatherType=jobacct_gather/linux",
]
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=32000 Gres=gpu:{gpus}"
PARTITIONS = [
    "PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP",
    "PartitionName=gpu Default=YES PriorityTier=10 PreemptMode=OFF",
    "PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=10",
    "PartitionName=high PriorityTier=20 PreemptMode=OFF",
]
SLURMDBD = [
    "DbdHost={host} DbdAddr=127.0.0.1 DbdPort={ports[slurmdbd]} SlurmUser={user} PidFile={short}/slurmdbd.pid",
    "AuthInfo=socket={short}/munge.socket StorageType=accounting_storage/mysql StorageLoc=slurm",
    "StorageHost=127.0.0.1 StoragePort={ports[mariadbd]} StorageUser=slurm StoragePass={password}",
]
DATABASE_USER = "GRANT ALL ON slurm.* TO 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';"


class Cluster:
    """The cluster runs inside a `with` block. After it, no process of the cluster or of its jobs is left."""

    def __init__(
        self,
        folder: Path,
        nodes: int = 2,
        cpus: int = 8,
        gpus: int = 2,
        accounting: bool = False,
        max_array_size: int = 1001,
    ) -> None:
        self.folder = folder.resolve()  # the folder of the configuration and the logs, which stay
        self.nodes = [f"node{n + 1}" for n in range(nodes)]
        self.accounting = accounting
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": PATH}
        self._facts: dict[str, Any] = {"cpus": cpus, "gpus": gpus, "max_array_size": max_array_size}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @staticmethod
    def missing(accounting: bool = False) -> str | None:
        """Return why this machine can run no cluster, or None."""
        packages = PACKAGES | (ACCOUNTING_PACKAGES if accounting else {})
        absent = [package for command, package in packages.items() if not shutil.which(command, path=PATH)]
        if absent:
            return f"Slurm is not complete here: apt-get install {' '.join(absent)}"
        if accounting and not all(table.exists() for table in TABLES):
            return f"MariaDB is not complete here: no {TABLES[0]}"
        return None

    def __enter__(self) -> "Cluster":
        # The path of a Unix socket has at most 107 bytes, and the folder of a test can be deep.
        self._short = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, *command: str, timeout: float = 30) -> str:
        """Return the stdout of a command, which the environment's settings of another Slurm do not reach.

        Raise RuntimeError if it fails.
        """
        done = subprocess.run(command, env=self._env(), capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}{done.stdout}")
        return done.stdout

    def state(self, job: str | int) -> str:
        """Return the state of a job, such as PENDING, or of an array the states of its tasks: COMPLETED,RUNNING."""
        return ",".join(sorted(set(self.run("squeue", "-h", "-r", "-t", "all", "-o", "%T", "-j", str(job)).split())))

    def wait_for(self, condition: Callable[[], bool], timeout: float = 60, what: str = "the condition") -> None:
        """Wait until the condition is true. Raise RuntimeError after `timeout` seconds, or if a daemon has ended."""
        end = time.monotonic() + timeout
        while not condition():
            ended = [f"{name} has ended" for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > end:
                report = [", ".join(ended or [f"{timeout} s have passed"]) + f", while waiting for {what}"]
                with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                    report.append(self.run("squeue", "-r", "-t", "all"))
                for log in sorted(self.folder.glob("*.log")):
                    report += [f"{log.name}:", *log.read_text(errors="replace").splitlines()[-20:]]
                raise RuntimeError("\n".join(report))
            time.sleep(0.05)

    def release(self, job: str | int) -> None:
        """Start a requeued job now. It would wait until the credential of its first start has expired, 6 s in all."""
        self.wait_for(lambda: self.state(job) == "PENDING", what=f"job {job} to be requeued")
        time.sleep(1 - time.time() % 1)  # a new credential of the same second would count as the old one: job FAILED
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def kill_node(self, name: str) -> None:
        """Kill the node's slurmd. Its jobs run on, and the controller marks the node as down after 16 s.

        `cluster.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=test")` does so at once.
        """
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def _start(self) -> None:
        self._short.chmod(0o755)  # munged asks for it
        for folder in (self.folder, *(self._short / name for name in ("gpus", "state", *self.nodes))):
            folder.mkdir(parents=True, exist_ok=True)
        gpus = [self._short / f"gpus/nvidia{n}" for n in range(self._facts["gpus"])]
        for gpu in gpus:
            gpu.symlink_to("/dev/null")  # Slurm wants a character device
        self._facts |= {"host": socket.gethostname().partition(".")[0], "user": pwd.getpwuid(os.getuid()).pw_name}
        self._facts |= {"short": self._short, "password": secrets.token_hex(16)}
        ports = self._facts["ports"] = _free_ports("slurmctld", "slurmdbd", "mariadbd", *self.nodes)
        settings = " ".join(SETTINGS + (ACCOUNTING if self.accounting else NO_ACCOUNTING)).split()
        nodes = [NODE.format(name=name, port=ports[name], **self._facts) for name in self.nodes]
        self._write("slurm.conf", *settings, *nodes, *PARTITIONS)
        self._write("gres.conf", "AutoDetect=off", *(f"Name=gpu File={gpu}" for gpu in gpus))
        version = re.findall(r"\d+", self.run("slurmd", "-V"))
        self._write("cgroup.conf", "CgroupPlugin=" + ("disabled" if int(version[0]) >= 24 else "cgroup/v1"))  # unused

        files = {"key": self._write("munge.key", secrets.token_hex(64))}
        files |= {name: self._short / f"munge.{name}" for name in ("pid", "seed", "log")}
        options = [f"--{name}-file={path}" for name, path in files.items()]
        self._daemon("munged", "munged", "--foreground", f"--socket={self._short}/munge.socket", *options)
        self.wait_for((self._short / "munge.socket").exists, what="munged")
        if self.accounting:
            self._start_accounting()
        self._daemon("slurmctld", "slurmctld", "-D")
        self._wait_for_port("slurmctld")
        for name in self.nodes:
            self._daemon(name, "slurmd", "-D", "-N", name)
        for name in self.nodes:
            self._wait_for_node(name)

    def _start_accounting(self) -> None:
        data = self._short / "mariadb"
        (data / "mysql").mkdir(parents=True)
        mariadbd = ["mariadbd", "--no-defaults", f"--user={self._facts['user']}", f"--datadir={data}"]
        # These options make the start quick. The data need not survive a power cut.
        mariadbd += ["--innodb-log-file-size=8M", "--innodb-flush-method=nosync", "--debug-no-sync"]
        tables = "use mysql;\n" + "".join(table.read_text() for table in TABLES)
        with open(self.folder / "mariadbd.log", "ab") as log:
            command = [*mariadbd, "--bootstrap"]
            subprocess.run(command, input=tables.encode(), stdout=log, stderr=log, env=self._env(), check=True)
        mariadbd += ["--bind-address=127.0.0.1", f"--port={self._facts['ports']['mariadbd']}"]
        mariadbd += [f"--socket={self._short}/mariadb.socket", f"--pid-file={self._short}/mariadb.pid"]
        self._daemon("mariadbd", *mariadbd, f"--init-file={self._write('user.sql', DATABASE_USER)}")
        self._wait_for_port("mariadbd")
        self._write("slurmdbd.conf", *" ".join(SLURMDBD).split())
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self._wait_for_port("slurmdbd")
        self.run("sacctmgr", "--immediate", "add", "cluster", "tests")

    def _write(self, name: str, *lines: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)  # slurmdbd and munged refuse secrets that others can read
        path.write_text("".join(line.format_map(self._facts) + "\n" for line in lines))
        return path

    def _daemon(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground, as a child of this process. Its output goes to NAME.log."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=self._env(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_for_port(self, name: str) -> None:
        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._facts["ports"][name]), 1):
                return True
            return False

        self.wait_for(listens, what=name)

    def _wait_for_node(self, name: str) -> None:
        self._wait_for_port(name)
        up = {"idle", "mix", "alloc", "comp"}
        self.wait_for(lambda: self.run("sinfo", "-h", "-p", "gpu", "-n", name, "-o", "%t").strip() in up, what=name)

    def _env(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)} | self.environment

    def _stop(self) -> None:
        """Kill everything, and remove it: the daemons first, so that no job is started meanwhile."""
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        self._daemons.clear()
        for _ in range(100):  # a killed process may just have started another one
            left = self._processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.02)
        shutil.rmtree(self._short, ignore_errors=True)

    def _processes(self) -> set[int]:
        """Return the daemons' helpers, each slurmstepd, the processes of jobs, and all their descendants."""
        ours = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        children: dict[int, list[int]] = defaultdict(list)
        processes: list[int] = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # the process has ended meanwhile, or is another user's
                name, _, rest = (process / "stat").read_text(errors="replace").partition("(")[2].rpartition(") ")
                state, parent = rest.split()[:2]
                if state in "ZX":
                    continue
                children[int(parent)].append(int(process.name))
                environment = (process / "environ").read_bytes().split(b"\0")
                in_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in environment)
                if ours in environment and (in_job or name.startswith("slurm")):
                    processes.append(int(process.name))
        for pid in processes:  # the list grows
            processes += children[pid]
        return set(processes)


def _free_ports(*names: str) -> dict[str, int]:
    with contextlib.ExitStack() as stack:  # all are held at the same time, so that they differ
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: server.getsockname()[1] for name, server in zip(names, sockets, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description="A real Slurm cluster on this machine until Ctrl-C.")
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd, so that sacct works")
    accounting = parser.parse_args().accounting
    if reason := Cluster.missing(accounting):
        parser.error(reason)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory() as folder,
        Cluster(Path(folder), accounting=accounting) as cluster,
    ):
        print("export", *(f"{name}={shlex.quote(value)}" for name, value in cluster.environment.items()), flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
