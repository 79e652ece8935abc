"""The documentation: its commands run, its reference is complete, and the built site needs no network."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import reference
from conftest import ROOT, compose, only_run, result, start
from hydra.core.override_parser.overrides_parser import OverridesParser

from distancing.config.checks import TARGETS, check
from distancing.config.composition import GROUPS
from distancing.landscape.__main__ import ANALYSES
from distancing.runs import metrics_file
from distancing.training.metrics import DESCRIPTIONS
from distancing.training.plan import Cycle, Phase
from distancing.training.settings import Config

PAGES = sorted(path for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
BLOCK = re.compile(r"^```sh(?: title=\"(.+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKS = ("needs", "hours", "minutes", "starts a server", "not run by the tests")  # beginnings of a block's title


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the title of its block, or "", and the words of each command on a page."""
    for title, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for command in block.replace("\\\n", " ").splitlines():
            yield title, shlex.split(command, comments=True)


def run(words: list[str], folder: Path) -> None:
    """Run a command in a folder, with a shell's globs in its arguments."""
    program = [sys.executable, "-m", "distancing"] if words[0] == "distancing" else [sys.executable]
    arguments: list[str] = []
    for word in words[1:]:
        arguments += sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else [word]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run([*program, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                             check=False)  # fmt: skip
    assert process.returncode == 0, f"{shlex.join(words)}\n{process.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_begins_with_its_title(page: Path) -> None:
    """A page that was cut, or lost its beginning in a merge, does not."""
    assert page.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_runs(page: Path, tmp_path: Path) -> None:
    """A page's commands run one after the other in one folder. A block with a title is exempt, and says why."""
    for name in ("results", "docs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    for title, words in commands(page):
        assert not title or title.startswith(MARKS), title
        if not title:
            run(words, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_settings_of_the_other_commands_are_right(page: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("DISTANCING_DATA", str(tmp_path))
    for title, words in commands(page):
        trains = words[:2] in (["distancing", "train"], ["python", "train.py"])
        if title and trains and not any("sweep=" in word for word in words):
            check(compose(*(word for word in words[2:] if word != "-m" and not word.startswith("hydra/"))))
        elif trains:
            OverridesParser.create().parse_overrides([word for word in words[2:] if word != "-m"])


def components() -> Iterator[type]:
    """Yield the settings and every component of this package."""
    yield from (Config, Phase, Cycle, *reference.LAUNCHERS.values(), reference.Grid)
    todo = [*TARGETS.values(), *ANALYSES.values()]
    while todo:
        cls = todo.pop()
        if cls.__module__.startswith("distancing."):
            yield cls
            todo += cls.__subclasses__()


@pytest.mark.parametrize("cls", sorted(set(components()), key=lambda cls: cls.__qualname__))
def test_every_setting_is_described(cls: Any) -> None:
    described = reference.descriptions(cls)
    for field in dataclasses.fields(cls):
        assert field.name in described, f"{cls.__module__}.{cls.__name__}.{field.name} has no line in the docstring"
    assert described.keys() <= {field.name for field in dataclasses.fields(cls)}, "it describes a field that is gone"


def test_every_setting_is_in_the_reference() -> None:
    text = reference.settings()
    cfg = compose()
    for key in ("seed", "dataset.augment", "optimizer.momentum", "penalty.growth", "penalty.distance.parameters"):
        assert f"| `{key}` |" in text, key
    for key in cfg:
        assert f"`{key}`" in text or f"\n## {key}\n" in text, key
    for group in (*GROUPS, "speed"):
        for name in reference.choices(group):
            assert re.search(rf"`?{group}(=|: ){name}\b", text), f"{group}={name}"
            assert reference.comment(group, name), f"conf/{group}/{name}.yaml needs a comment at its beginning"


def named(name: str, patterns: set[str]) -> bool:
    """Whether a pattern fits a name: capitals in it stand for any text."""
    return any(re.fullmatch(re.sub("[A-Z]+", ".+", re.escape(pattern)), name) for pattern in patterns)


@pytest.mark.slow
def test_every_value_of_a_run_is_described(tmp_path: Path) -> None:
    choices = ["dataset.validation_fraction=0.2", "penalty.half_life=3", f"analysis=[{','.join(ANALYSES)}]"]
    small = ["analysis.barrier.points=3", "analysis.valley.points=3", "analysis.valley.epochs=1",
             "analysis.plane.points=3", "analysis.sharpness.directions=2", "analysis.sharpness.starts=1"]  # fmt: skip
    assert start("experiment=smoke", "model.width=2", f"runs={tmp_path}", *choices, *small) == 0
    path = only_run(tmp_path)
    columns = {name for names in DESCRIPTIONS for name in names.split(", ")}
    assert [name for name in metrics_file.read(path / "metrics.csv").columns if not named(name, columns)] == []
    content = result(path)
    for name, values in content["analysis"].items():
        patterns = {key for keys in ANALYSES[name].VALUES for key in keys.split(", ")}
        assert [key for key in values if not named(key, patterns)] == [], name
    fields = reference.result_fields()
    for part in (content, content["final"], content["gradient_check"], content["ensemble"],
                 content["ensemble"]["splits"]["test"], content["ensemble"]["splits"]["test"]["ensemble"]):  # fmt: skip
        assert [key for key in part if f"| `{key}` |" not in fields] == []


class Links(HTMLParser):
    """The files that a page loads, and its images without a description."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.without_text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        address = values.get("href" if tag == "link" else "src") or ""
        if tag in ("script", "link", "img", "iframe") and values.get("rel") != "canonical":
            self.loaded.append(address)
        if tag == "img" and not values.get("alt"):
            self.without_text.append(address)


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    unreachable = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT, env={**os.environ, **unreachable}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        links = Links()
        text = page.read_text(encoding="utf-8")
        links.feed(text)
        assert links.without_text == [], page
        assert [address for address in links.loaded if address.startswith(("http", "//"))] == [], page
        assert "<!-- reference" not in text
    assert (tmp_path / "javascripts/mathjax/tex-chtml.js").exists()
    assert (tmp_path / "search/search_index.json").exists()
