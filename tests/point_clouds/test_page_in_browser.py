"""The interactive page in a real browser, driven by its protocol over a pipe."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from ncgn_jax.point_clouds.draw_page import write_interactive_clouds

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=900,500",
    "--proxy-server=socks5://127.0.0.1:1",  # nothing is there: no network
    "--remote-debugging-pipe",
]
PATIENCE = 20.0  # seconds; machines that run tests are busy
PIXELS = """(() => { const canvas = document.querySelector("canvas");
  return Array.from(canvas.getContext("2d")
    .getImageData(0, 0, canvas.width, canvas.height).data
    .filter((value, i) => i % 4 === 3)); })()"""


class Browser:
    """Sends commands to a page of Chromium and reads what they return."""

    def __init__(self, to_browser, from_browser):
        self.out = os.fdopen(to_browser, "wb", buffering=0)
        self.back = os.fdopen(from_browser, "rb")
        self.number, self.session = 0, None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]

    def __call__(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self):
        letters = bytearray()
        while (letter := self.back.read(1)) != b"\0":
            assert letter, "the browser has ended"
            letters += letter
        return letters

    def say(self, expression):
        """Evaluates JavaScript in the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression, value):
        """Waits until JavaScript in the page gives a value."""
        end = time.monotonic() + PATIENCE
        while (found := self.say(expression)) != value:
            assert time.monotonic() < end, f"{expression} is {found!r}, not {value!r}"
            time.sleep(0.05)

    def mouse(self, kind, x, y, buttons):
        """Moves the mouse, or presses or lifts its left button."""
        self(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=x,
            y=y,
            button="left" if buttons or kind == "Released" else "none",
            buttons=buttons,
            clickCount=int(kind != "Moved"),
        )


@pytest.fixture
def browser(tmp_path):
    profile = tmp_path / "profile"
    profile.mkdir()
    (read_here, write_there), (read_there, write_here) = os.pipe(), os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4.
    script = f'exec "$@" 3<&{read_there} 4>&{write_there}'
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            script,
            "bash",
            CHROMIUM,
            *OPTIONS,
            f"--user-data-dir={profile}",
        ],
        pass_fds=(read_there, write_there),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_there)
    os.close(write_there)
    try:
        yield Browser(write_here, read_here)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_page_draws_clouds_and_turns_them_without_a_network(browser, tmp_path):
    numbers = np.random.default_rng(0)
    sets = {
        "generated": numbers.normal(size=(24, 2048, 3)),
        "test data": numbers.normal(size=(5, 500, 3)),
    }
    words = {"generated": [f"kind {i}" for i in range(24)]}
    page = write_interactive_clouds(sets, tmp_path / "a.html", captions=words)
    browser("Page.navigate", url=page.as_uri())
    # Between two pages there is no element.
    state = "document.documentElement?.dataset"
    browser.wait_for(f"{state}.drawn", "2048 500")
    before = np.asarray(browser.say(PIXELS))
    assert np.count_nonzero(before) > 2000
    azimuth = float(browser.say(f"{state}.azimuth"))

    # The mouse drags across the first panel and moves on with its button up.
    browser.mouse("Pressed", 200, 200, 1)
    browser.mouse("Moved", 320, 200, 1)
    browser.mouse("Released", 320, 200, 0)
    browser.mouse("Moved", 350, 250, 0)
    browser.wait_for(f"{state}.azimuth", f"{azimuth - 60.0:.1f}")
    after = np.asarray(browser.say(PIXELS))
    assert np.count_nonzero(before != after) > 2000

    browser("Input.dispatchKeyEvent", type="keyDown", key="PageDown")
    browser.wait_for('document.querySelector("output").textContent', "2 of 24")
    assert browser.say('document.querySelector("figcaption span").textContent') == (
        "kind 1"
    )
    assert browser.say("performance.getEntriesByType('resource').length") == 0
