"""The number of threads that follows from the system's files, and that a run keeps."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import only_run, result, start
from crash import outcome

from distancing.process import threads
from distancing.process.threads import Time, auto, beside_others, bound_spin, cores, left, share, spent, usable

GROUP = "sys/fs/cgroup"


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write these files of /proc and /sys below `root`."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: set(range(16)))


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("files", "number"),
    [
        ({}, 16),  # macOS
        ({"proc/self/cgroup": "0::/\n", f"{GROUP}/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", f"{GROUP}/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", f"{GROUP}/cpu.max": "50000 100000\n"}, 1),
        # of the group and the one above it, the lower quota
        ({"proc/self/cgroup": "0::/a/b\n", f"{GROUP}/a/b/cpu.max": "900000 100000", f"{GROUP}/a/cpu.max": "40 10"}, 4),
        ({"proc/self/cgroup": "0::/a/b\n", f"{GROUP}/a/b/cpu.max": "500000 100000", f"{GROUP}/a/cpu.max": "max 10"}, 5),
        # a container that sees the host's path
        ({"proc/self/cgroup": "0::/docker/1f\n", f"{GROUP}/cpu.max": "200000 100000"}, 2),
        # version 1
        ({"proc/self/cgroup": "4:cpu,cpuacct:/a\n1:name=systemd:/b\n", f"{GROUP}/cpu/a/cpu.cfs_quota_us": "700000\n",
          f"{GROUP}/cpu/a/cpu.cfs_period_us": "100000\n"}, 7),
        ({"proc/self/cgroup": "4:cpu:/\n", f"{GROUP}/cpu/cpu.cfs_quota_us": "-1\n",
          f"{GROUP}/cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"proc/self/cgroup": "4:cpuset:/a\n", f"{GROUP}/cpu/a/cpu.cfs_quota_us": "100\n",
          f"{GROUP}/cpu/a/cpu.cfs_period_us": "100\n"}, 16),
    ],
)  # fmt: skip
def test_quotas_of_cgroups(files: Mapping[str, str], number: int, tmp_path: Path) -> None:
    assert usable(tree(tmp_path, files), {}) == share(tmp_path, {}) == number


@pytest.mark.usefixtures("sixteen_cores")
@pytest.mark.parametrize(
    ("environment", "number", "shared"),
    [
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "8"}, 4, 4),
        ({"SLURM_CPUS_ON_NODE": "8"}, 8, 8),
        ({"SLURM_CPUS_ON_NODE": "8", "SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, 4, 4),
        ({"SLURM_CPUS_ON_NODE": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}, 1, 1),
        ({"OMP_NUM_THREADS": "3"}, 16, 3),
        ({"OMP_NUM_THREADS": "3,2"}, 16, 3),
        ({"OMP_NUM_THREADS": "99"}, 16, 16),
        ({"OMP_NUM_THREADS": "0", "SLURM_CPUS_PER_TASK": "?"}, 16, 16),
        ({"OMP_NUM_THREADS": "5", "SLURM_CPUS_PER_TASK": "2"}, 2, 2),
    ],
)
def test_shares_in_the_environment(environment: dict[str, str], number: int, shared: int, tmp_path: Path) -> None:
    assert (usable(tmp_path, environment), share(tmp_path, environment)) == (number, shared)


def test_what_other_processes_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores 1 and 3 have two seconds each. Other guests take half a second of core 1, other processes one of core 3.

    One second is this process's own, and the rest is idle."""
    monkeypatch.setattr(threads, "cores", lambda: {1, 3})
    second = os.sysconf("SC_CLK_TCK")

    def at(own: tuple[float, ...], *rows: tuple[float, ...]) -> Time:
        monkeypatch.setattr(os, "times", lambda: os.times_result((*own, 99)))
        lines = [f"cpu{i} " + " ".join(str(round(second * x)) for x in row) for i, row in enumerate(rows)]
        return spent(tree(tmp_path, {"proc/stat": "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 1 2 3"])}))

    # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
    before = at((0, 0, 0, 0), (8,) * 10, (1,) * 10, (0,) * 10, (5,) * 10)
    after = at((0.5, 0.2, 0.1, 0.2), (9,) * 10, (2, 1, 1, 1.5, 1, 1, 1, 1.5, 2, 2), (0,) * 10,
               (5, 5.25, 5.5, 5.75, 5.25, 5.15, 5.1, 5, 6, 6))  # fmt: skip
    assert after.total - before.total == pytest.approx(2 * 2)
    assert left(before, after, 2) == pytest.approx(2 - (0.5 + 1) / 2)
    assert left(before, before, 2) == 2
    assert spent(tmp_path / "macOS").total == 0


@pytest.mark.parametrize(
    ("most", "total", "free", "number", "why"),
    [
        (2, 2, 2.0, 2, ""),
        (2, 2, 1.51, 2, ""),
        (2, 2, 1.4, 1, "one of 2 cores is taken by other processes"),
        (2, 2, -0.1, 1, "2 of 2 cores are taken by other processes"),
        (4, 16, 5.2, 4, ""),
        (4, 16, 2.7, 3, "13 of 16 cores are taken by other processes"),
    ],
)
def test_beside_other_processes(most: int, total: int, free: float, number: int, why: str) -> None:
    assert beside_others(most, total, free) == (number, why)


def test_the_spin_is_bounded_unless_the_user_says_otherwise() -> None:
    for name, value in (("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7"), ("HOME", "/")):
        environment = {name: value}
        bound_spin(environment)
        assert environment == {name: value} | ({"GOMP_SPINCOUNT": str(threads.SPIN)} if name == "HOME" else {})
    loaded_first = "import distancing, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    printed = subprocess.run([sys.executable, "-c", loaded_first], env=environment, capture_output=True, check=True)
    assert printed.stdout.split() == [str(threads.SPIN).encode(), b"False"]


@pytest.mark.slow
@pytest.mark.usefixtures("two_cores")
def test_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network gets one thread. Fewer threads than cores are used if other processes take cores."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    most = share()
    assert auto(lambda: threads.SMALL / 2) == (1, f"a network this small is no faster with {most}")
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in cores()]
    try:
        time.sleep(1)  # they start
        threads.watch()
        number, why = auto()
    finally:
        for process in others:
            process.kill()
            process.wait()
    assert 1 <= number < most
    assert why.endswith(f" of {len(cores())} cores are taken by other processes")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert auto() == (1, "")


# of a run

# its last digits depend on the number of threads
RUN = ["experiment=smoke", "model.width=8", "dataset.train_images=600", "batch_size=128", "analysis=[]"]


@pytest.mark.slow
@pytest.mark.usefixtures("two_cores")
def test_a_run_keeps_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is resumed or verified on a single core keeps its number of threads and ends with the same bits.
    Another number is refused."""

    def stop(self: Any, *_: Any) -> None:
        self.received = signal.SIGTERM

    for number in (1, 2):
        assert start(*RUN, f"threads={number}", f"runs={tmp_path}/{number}") == 0
    one, two = (outcome(only_run(tmp_path / name)) for name in ("1", "2"))
    assert one["bits"] != two["bits"]
    with monkeypatch.context() as patch:
        patch.setattr("distancing.experiment.main.StopSignal.__enter__", stop)
        with pytest.raises(SystemExit):
            start(*RUN, "threads=2", f"runs={tmp_path}/stopped")
    capsys.readouterr()
    assert start(*RUN, "threads=1", f"runs={tmp_path}/stopped") == 2
    assert "error: threads=1, but this run began with 2, " in capsys.readouterr().err
    before = cores()
    try:
        os.sched_setaffinity(0, {min(before)})
        assert start(*RUN, "threads=2", f"runs={tmp_path}/new") == 2
        assert "error: threads=2: expected auto, or an integer from 1 to 1, " in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
        assert start(*RUN, f"runs={tmp_path}/stopped") == 0
        assert outcome(only_run(tmp_path / "stopped")) == two
        assert start(*RUN, "verify=true", f"runs={tmp_path}/stopped") == 0
        monkeypatch.setattr("distancing.experiment.main.device_name", lambda _: "another GPU")
        capsys.readouterr()
        assert start(*RUN, "verify=true", f"runs={tmp_path}/new") == 2
        assert "error: verify=true: the run was trained on cpu " in capsys.readouterr().err
    finally:
        os.sched_setaffinity(0, before)
    assert result(only_run(tmp_path / "stopped"))["threads"] == 2
