"""RESULTS.md: every full table equals the output of its command, and every short one is a selection of a full one.

`python docs/figures/results.py` writes the short tables and draws the pictures.
"""

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import tables

from distancing.ensemble.__main__ import main as ensemble
from distancing.report.__main__ import main as report

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "RESULTS.md"
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"report": report, "ensemble": ensemble}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the shown commands that read results/, as words."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["distancing"] and any(word.startswith("results/") for word in words[2:4]):
                yield words


@pytest.mark.slow
def test_every_full_table_equals_the_output_of_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    written = set()
    for words in commands(PAGE.read_text(encoding="utf-8")):
        with contextlib.redirect_stdout(io.StringIO()):
            if "--csv" in words:
                written.add(words[-1])
                assert COMMANDS[words[1]]([*words[2:-1], str(tmp_path / "table.csv")]) == 0
                assert (tmp_path / "table.csv").read_text() == Path(words[-1]).read_text(), words[-1]
            else:
                assert COMMANDS[words[1]](words[2:]) == 0
    known = {f"results/{path.name}" for path in (ROOT / "results").glob("*.csv")}
    assert written == {table for table in known if "ensembles" not in table}  # the ensembles' need their checkpoints


def test_short_tables_pictures_and_links_are_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert tables.updated(text) == text
    assert {match[2] for match in tables.TABLE.finditer(text)} <= set(tables.tables())
    named = set(re.findall(r"results/[\w.-]+", text))
    assert {f"results/{path.name}" for path in (ROOT / "results").iterdir()} <= named  # all files are used
    assert not re.search(r"^\|.*\n[^|\n]", text, re.MULTILINE)  # a line below a table would become its row
    for path in re.findall(r"\]\(((?:docs|results)/[\w.-]+)\)", text):
        assert (ROOT / path).exists(), path
    number = re.search(r"(?<=\| )\d+\.\d+ ± ", text[text.index("<!-- table:") :])
    assert number is not None
    start = text.index("<!-- table:") + number.start()
    assert tables.updated(text[:start] + "9" + text[start:]) == text  # an edited number is corrected
    assert all(table.count("\n") <= 15 and table.splitlines()[0].count("|") <= 7 for table in tables.tables().values())
