"""`python tools/long_haul.py` in short: many runs in one process leave nothing behind in it."""

from pathlib import Path

import pytest
from long_haul import many_runs

RUNS = 12


@pytest.mark.slow
def test_many_runs_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = many_runs(RUNS)
    early, last = found[RUNS // 4], found[-1]
    assert len(found) == RUNS
    assert last.files <= early.files
    assert last.threads <= early.threads
    assert last.memory - early.memory < 60  # MB; it goes up and down by some 40 without growing
