"""Every table in RESULTS.md equals the output of the command above it, which reads `results/`.

`python tests/test_results.py` writes the tables into RESULTS.md.
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
BLOCK = re.compile(r"```sh\n(.*?)```\n\n((?:\|[^\n]*\n)*)", re.DOTALL)  # commands and the table below them


def table_of(commands: str) -> str:
    """Run the first of these commands that reads results/. Return its table; "" if there is no such command."""
    for command in commands.replace("\\\n", " ").splitlines():
        words = shlex.split(command, comments=True)
        sources = [word for word in words[3:5] if word != "--compare"][:1]
        if words[:2] == ["python", "-m"] and sources and sources[0].startswith("results/"):
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                assert COMMANDS[words[2]]([*words[3:], "--markdown", f"{folder}/table.md"]) == 0, command
                lines = Path(folder, "table.md").read_text().splitlines(keepends=True)
                return "".join(line for line in lines if line.startswith("|"))
    return ""


def updated(text: str) -> str:
    """Return the text with every table replaced by the output of its command."""

    def block(match: re.Match[str]) -> str:
        table = table_of(match[1])
        return f"```sh\n{match[1]}```\n\n{table or match[2]}" + ("\n" if table and not match[2] else "")

    return BLOCK.sub(block, text)


@pytest.mark.slow
def test_every_table_equals_the_output_of_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = RESULTS.read_text()
    assert updated(text) == text
    named = set(re.findall(r"results/[\w.-]+", text))
    assert named == {f"results/{path.name}" for path in (ROOT / "results").iterdir()}  # all files are used
    pictures = set(re.findall(r"\]\((docs/[\w.-]+)\)", text))
    assert all((ROOT / picture).exists() for picture in pictures)
    block = next(match for match in BLOCK.finditer(text) if "results/" in match[1] and match[2])
    digit = re.search(r"\d(?=[^|]*\|\n)", block[2])
    assert digit is not None
    wrong = text[: block.start(2)] + block[2].replace(digit[0], str((int(digit[0]) + 1) % 10)) + text[block.end(2) :]
    assert wrong != text
    assert updated(wrong) == text  # an edited number is corrected


if __name__ == "__main__":
    RESULTS.write_text(updated(RESULTS.read_text()))
