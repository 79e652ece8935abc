"""RESULTS.md says what `results/` says: every table in it is drawn anew by the command above it.

`python tests/test_results.py` writes them anew into RESULTS.md.
"""

import contextlib
import io
import re
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from distancing.ensemble.__main__ import main as ensemble
from distancing.report.__main__ import main as report

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "RESULTS.md"
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"distancing.report": report, "distancing.ensemble": ensemble}
BLOCK = re.compile(r"```sh\n(.*?)```\n\n((?:\|[^\n]*\n)*)", re.DOTALL)  # commands, and the table below them


def drawn(commands: str) -> str:
    """The table that the one of these commands makes that reads results/; empty if there is none."""
    for command in commands.replace("\\\n", " ").splitlines():
        words = shlex.split(command, comments=True)
        what = [word for word in words[3:5] if word != "--compare"][:1]
        if words[:2] == ["python", "-m"] and what and what[0].startswith("results/"):
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                assert COMMANDS[words[2]]([*words[3:], "--markdown", f"{folder}/table.md"]) == 0, command
                lines = Path(folder, "table.md").read_text().splitlines(keepends=True)
                return "".join(line for line in lines if line.startswith("|"))
    return ""


def redrawn(text: str) -> str:
    def block(found: re.Match[str]) -> str:
        table = drawn(found[1])
        return f"```sh\n{found[1]}```\n\n{table or found[2]}" + ("\n" if table and not found[2] else "")

    return BLOCK.sub(block, text)


@pytest.mark.slow
def test_every_table_is_what_its_command_makes_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = RESULTS.read_text()
    again = redrawn(text)
    assert again == text
    named = set(re.findall(r"results/[\w.-]+", text))
    there = {f"results/{path.name}" for path in (ROOT / "results").iterdir()}
    assert named == there  # nothing is kept that is not shown
    pictures = set(re.findall(r"\]\((docs/[\w.-]+)\)", text))
    assert all((ROOT / picture).exists() for picture in pictures)
    some = next(found for found in BLOCK.finditer(text) if "results/" in found[1] and found[2])
    digit = re.search(r"\d(?=[^|]*\|\n)", some[2])
    assert digit is not None
    wrong = text[: some.start(2)] + some[2].replace(digit[0], str((int(digit[0]) + 1) % 10)) + text[some.end(2) :]
    assert wrong != text
    assert redrawn(wrong) == text  # a number changed by hand doesn't stay


if __name__ == "__main__":
    RESULTS.write_text(redrawn(RESULTS.read_text()))
