"""A page in headless Chromium, watched through the DevTools protocol over a pipe: no further package is needed."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def find_chromium() -> str | None:
    """Chromium's or Chrome's program, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@dataclass
class Visit:
    """What happened while a page was open.

    Attributes:
        requests: addresses that the page asked for, itself first; addresses of data within it are left out.
        failures: addresses that did not load, with the reason.
        complaints: errors and warnings of the console, exceptions.
        answers: results of the expressions that were evaluated, by expression.
        screenshot: PNG.
    """

    requests: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    screenshot: bytes = b""


def visit(
    page: Path, width: int = 1200, dark: bool = False, expressions: tuple[str, ...] = (), seconds: float = 60
) -> Visit:
    """Opens a file as a user with this window and colour scheme does.

    Args:
        page: HTML file.
        width: of the window in CSS pixels; the screenshot shows the whole height of the page.
        dark: whether the user prefers a dark colour scheme.
        expressions: JavaScript whose values are wanted.
        seconds: after which a browser that does not answer is an error.
    """
    program = find_chromium()
    assert program is not None, "no Chromium"
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        _Browser(program, profile, seconds) as browser,
    ):
        return browser.visit(page, width, dark, expressions)


class _Browser:
    """Messages are JSON objects that end with a zero byte: commands to file descriptor 3, answers from 4."""

    def __init__(self, program: str, profile: str, seconds: float):
        self.deadline = time.monotonic() + seconds
        self.numbers = itertools.count(1)
        self.buffer = b""
        self.seen = Visit()
        self.page: str | None = None
        self.loaded = False
        from_us, self.to_browser = os.pipe()
        self.from_browser, to_us = os.pipe()
        command = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        # a shell puts the pipes where Chromium expects them; subprocess cannot choose the numbers of descriptors
        script = f'exec "$@" 3<&{from_us} 4>&{to_us}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(from_us)
        os.close(to_us)

    def __enter__(self) -> "_Browser":
        return self

    def __exit__(self, *exception) -> None:
        try:
            os.write(self.to_browser, b'{"id":0,"method":"Browser.close"}\0')
            self.process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.to_browser)
        os.close(self.from_browser)

    def visit(self, page: Path, width: int, dark: bool, expressions: tuple[str, ...]) -> Visit:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.page = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": width, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", height=900, **metrics)
        self.loaded = False
        self.ask("Page.navigate", url=page.absolute().as_uri())
        while not self.loaded:
            self.receive()
        for expression in expressions:
            answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
            self.seen.answers[expression] = answer["result"].get("value")
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": min(size["height"], 16000), "scale": 1}
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        self.seen.screenshot = base64.b64decode(shot["data"])
        return self.seen

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self.page is not None:
            message["sessionId"] = self.page
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def receive(self) -> dict[str, Any]:
        """The next message; what it says of the page is noted."""
        while b"\0" not in self.buffer:
            left = self.deadline - time.monotonic()
            ready, _, _ = select.select([self.from_browser], [], [], max(left, 0))
            assert ready, "Chromium does not answer"
            block = os.read(self.from_browser, 1 << 20)
            assert block, "Chromium has ended"
            self.buffer += block
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        self.note(message.get("method", ""), message.get("params", {}))
        return message

    def note(self, event: str, what: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Network.requestWillBeSent" and not what["request"]["url"].startswith("data:"):
            self.seen.requests.append(what["request"]["url"])
        elif event == "Network.loadingFailed":
            self.seen.failures.append(f"{what.get('type')}: {what.get('errorText')}")
        elif event == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.seen.complaints.append(what["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.seen.complaints.append(str(what["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.seen.complaints.append(str(what["args"]))
