"""The functions that MkDocs calls when it builds the site. They add the pages that are not written in docs/."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mathjax  # the package has MathJax's files, which browsers then load from the site itself
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))
from reference import filled  # noqa: E402  # beside this file, where a hook does not look by itself

# pages that are also files of the repository
PAGES = {"results.md": "RESULTS.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
MATHJAX = Path(mathjax.__file__).parent / "static/mathjax"
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that are files of the repository, and MathJax."""
    for uri, name in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=_relinked(text, config.repo_url)))
    for path in _mathjax():
        uri = f"javascripts/mathjax/{path.relative_to(MATHJAX / 'es5').as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def _mathjax() -> Iterator[Path]:
    yield MATHJAX / "es5/tex-chtml.js"
    yield from sorted((MATHJAX / "es5/output/chtml/fonts/woff-v2").glob("*.woff"))


def _relinked(text: str, repository: str | None) -> str:
    """Return a text whose links to files of the repository lead to the site's pages, or else to the repository."""

    def relink(match: re.Match[str]) -> str:
        target = match[2]
        if target.startswith("docs/"):
            return f"{match[1]}{target.removeprefix('docs/')})"
        page = next((uri for uri, name in PAGES.items() if target.partition("#")[0] == name), None)
        if page:
            return f"{match[1]}{page}{target[len(PAGES[page]) :]})"
        return f"{match[1]}{(repository or '').rstrip('/')}/blob/main/{target})"

    return LINK.sub(relink, text)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the generated tables."""
    return filled(markdown)
