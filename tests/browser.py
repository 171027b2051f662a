"""A headless Chromium, steered over its DevTools pipe (NUL-ended JSON on descriptors 3 and 4): needs no package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

__all__ = ["Browser", "Page", "chromium", "open_browser"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # containers have no user namespaces
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no request can leave, even if one were made
    "--remote-debugging-pipe",
)
# Puts the ends of the two pipes where Chromium looks for them, then becomes Chromium.
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
_PATIENCE_S = 60.0


def chromium() -> str:
    """The path of Chromium; skips the test where there is none."""
    for name in _NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"none of {', '.join(_NAMES)} is installed")


class Browser:
    """A running Chromium.

    complaints : console messages of level warning and above, and uncaught errors, of all pages
    requests : the addresses that any page asked for
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._to, self._from = to_browser, from_browser
        self._buffer = b""
        self._last = 0
        self._happened: list[str] = []

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self._last += 1
        command: dict[str, object] = {"id": self._last, "method": method, "params": parameters}
        if session:
            command["sessionId"] = session
        message = json.dumps(command).encode() + b"\0"
        while message:
            message = message[os.write(self._to, message) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def wait_for(self, event: str) -> None:
        """Wait until an event has happened since the last wait for it."""
        while event not in self._happened:
            self._receive()
        self._happened.remove(event)

    def page(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """Open an empty page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Page", "Network", "Log"):
            self.call(f"{domain}.enable", session)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[scheme])
        return Page(self, session, width)

    def _receive(self) -> dict[str, Any]:
        """The next message; what concerns the tests is noted on the way."""
        end = time.monotonic() + _PATIENCE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium said nothing for {_PATIENCE_S:.0f} s"
            received = os.read(self._from, 1 << 20)
            assert received, "Chromium has ended"
            self._buffer += received
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, details: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled" and details["type"] in ("warning", "error", "assert"):
            self.complaints.append(str([argument.get("value") for argument in details["args"]]))
        elif event == "Runtime.exceptionThrown":
            thrown = details["exceptionDetails"]
            self.complaints.append(thrown.get("exception", {}).get("description", thrown["text"]))
        elif event == "Log.entryAdded" and details["entry"]["level"] in ("warning", "error"):
            self.complaints.append(details["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif event == "Page.loadEventFired":
            self._happened.append(event)


class Page:
    """One page of a browser."""

    def __init__(self, browser: Browser, session: str, width: int) -> None:
        self._browser, self._session, self._width = browser, session, width

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file and wait until its scripts have run; `fragment` is what follows `#`, encoded."""
        self._browser.call("Page.navigate", self._session, url="about:blank")
        self._browser.wait_for("Page.loadEventFired")
        address = f"file://{quote(str(path.resolve()))}" + (f"#{fragment}" if fragment else "")
        self._browser.call("Page.navigate", self._session, url=address)
        self._browser.wait_for("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression, or the promise that it gives, comes to."""
        answer = self._browser.call(
            "Runtime.evaluate", self._session, expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that a CSS selector finds."""
        found: list[str] = self.value(f"[...document.querySelectorAll({selector!r})].map(one => one.textContent)")
        return found

    def screenshot(self, path: Path, *, top: int = 0, height: int | None = None) -> None:
        """Save a strip of the page, all of it by default, as PNG."""
        height = height or int(self.value("document.documentElement.scrollHeight")) - top
        clip = {"x": 0, "y": top, "width": self._width, "height": height, "scale": 1}
        answer = self._browser.call("Page.captureScreenshot", self._session, clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Run Chromium with a profile folder of its own until the block ends."""
    program = chromium()
    its_read, our_write = _pipe()
    our_read, its_write = _pipe()
    launch = [sys.executable, "-c", _LAUNCH, str(its_read), str(its_write)]
    process = subprocess.Popen(
        [*launch, program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(its_read, its_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_read)
    os.close(its_write)
    browser = Browser(our_write, our_read)
    try:
        yield browser
        browser.call("Browser.close")
        process.wait(_PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        os.close(our_write)
        os.close(our_read)


def _pipe() -> tuple[int, int]:
    """A pipe whose numbers are above 4, so that putting one end in its place does not close another."""
    ends = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return read, write
