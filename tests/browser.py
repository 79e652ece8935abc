"""Headless Chromium by its DevTools protocol through two pipes: what a page shows, shadow DOM included."""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# all text below a node; a shadow root's too, which innerText leaves out
TEXT = """(function said(node) {
  if (node.nodeType === Node.TEXT_NODE) return node.textContent;
  if (['SCRIPT', 'STYLE', 'TEMPLATE', 'DOM-MODULE'].includes(node.nodeName)) return '';
  return [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].map(said).join(' ');
})(document.body)"""


def browser() -> str | None:
    """Its path, if this machine has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A window of 1,500 × 1,100 pixels, within `with`. Raises TimeoutError for a browser that doesn't answer."""

    def __init__(self, profile: Path) -> None:
        self.profile, self._ids, self._unread = profile, iter(range(1, 10**6)), b""

    def __enter__(self) -> "Page":
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        path = browser()
        assert path
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--window-size=1500,1100", f"--user-data-dir={self.profile}", "--remote-debugging-pipe"]  # fmt: skip

        def wire() -> None:  # in the new process: it reads from 3 and writes to 4
            ends = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (theirs_in, theirs_out)]
            for number, each in zip((3, 4), ends, strict=True):
                os.dup2(each, number)

        self._process = subprocess.Popen([path, *options, "about:blank"], preexec_fn=wire, close_fds=False,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        for each in (theirs_in, theirs_out):
            os.close(each)
        self._in, self._out = ours_in, ours_out
        os.set_blocking(self._in, False)
        (target,) = (each for each in self._ask("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(TimeoutError, OSError):
            self._ask("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number, end = next(self._ids), time.monotonic() + 60
        said = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(said).encode() + b"\0")
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                self._unread += os.read(self._in, 1 << 20)
            *whole, self._unread = self._unread.split(b"\0")
            for each in map(json.loads, whole):
                if each.get("id") == number:
                    assert "error" not in each, each
                    found: dict[str, Any] = each["result"]
                    return found
            time.sleep(0.02)
        raise TimeoutError(f"{method}: no answer from the browser")

    def evaluate(self, script: str) -> Any:
        return self._ask("Runtime.evaluate", self._session, expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def open(self, url: str) -> None:
        self._ask("Page.navigate", self._session, url=url)

    def text(self, *wanted: str, seconds: float = 30) -> str:
        """What the page says, as soon as all of `wanted` are in it; or at the end of the time."""
        end = time.monotonic() + seconds
        while True:
            said = " ".join(str(self.evaluate(TEXT) or "").split())
            if all(each in said for each in wanted) or time.monotonic() > end:
                return said
            time.sleep(0.2)
