"""Chromium without a window, driven over its debugging pipe: the DevTools protocol, less every library for it.

Messages are JSON, ended by a zero byte; Chromium reads them from descriptor 3 and writes to 4. So there is no port that
others of this machine could reach, no WebSocket, and no driver whose version has to fit.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CHROMIUM: Final = shutil.which("chromium")
_PATIENCE_S: Final = 120.0  # that only a hang reaches
_KEYS: Final = {
    "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowUp": 38, "ArrowDown": 40,
}  # fmt: skip


class ScriptError(AssertionError):
    """A script of the test threw, or what it waited for did not come."""


def spki(certificate: Path) -> str:
    """What Chromium calls a certificate by, when it is told to believe that one and no other."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    return base64.b64encode(
        hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    ).decode()


class Browser:
    """One process, with a profile of its own in `folder`, which believes the one certificate.

    `inside`: what has a command run elsewhere, in a namespace.
    """

    def __init__(self, folder: Path, certificate: Path, inside: tuple[str, ...] = ()) -> None:
        assert CHROMIUM is not None
        to_child, self._to = os.pipe()
        self._from, from_child = os.pipe()
        options = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
            *(
                "--lang=en-GB",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE 10.9.0.2",
                f"--user-data-dir={folder}",
            ),
            f"--ignore-certificate-errors-spki-list={spki(certificate)}",
        ]
        # bash, because only a shell puts descriptors at 3 and 4 without code between fork and exec.
        line = f'exec "$@" 3<&{to_child} 4>&{from_child} {to_child}<&- {from_child}>&-'
        with (folder.parent / "chromium.err").open("wb") as errors:
            self._process = subprocess.Popen(
                ["bash", "-c", line, "bash", *inside, CHROMIUM, *options, "about:blank"],
                pass_fds=(to_child, from_child), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                env={**os.environ, "HOME": str(folder.parent)},
            )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        self._numbers = itertools.count(1)
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(_PATIENCE_S)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            os.close(self._to)
            os.close(self._from)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result. Raises ScriptError for an error, and AssertionError when neither comes."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        for said in self._said():
            if said.get("id") == number:
                if "error" in said:  # a page that is just being left, among others: `wait` tries again
                    raise ScriptError(f"{method}: {said['error']}")
                return said["result"]
            self.events.append(said)
        raise AssertionError(f"{method}: chromium has gone")

    def _said(self) -> Iterator[dict[str, Any]]:
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            while b"\0" in self._rest:
                message, _, self._rest = self._rest.partition(b"\0")
                yield json.loads(message)
            left_s = max(0.0, deadline_s - time.monotonic())
            assert select.select([self._from], [], [], left_s)[0], "chromium does not answer"
            piece = os.read(self._from, 1 << 20)
            if not piece:
                return
            self._rest += piece

    @contextmanager
    def page(self, url: str, beside: Page | None = None, **size: Any) -> Iterator[Page]:
        """A page with cookies of its own, or another tab of the one that is named; closed at the end."""
        context = beside.context if beside is not None else self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, context)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.size(**size)
        page.go(url)
        yield page
        self.call("Target.closeTarget", targetId=target)
        if beside is None:
            self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """What a person does with one page, and what they see of it."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self.context = context

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def show(self) -> None:
        """In front of the other tabs: one that nobody sees draws no frames, in which `wait` looks."""
        self.call("Page.bringToFront")

    def size(self, width: int = 1200, height: int = 900, *, phone: bool = False) -> None:
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def scheme(self, name: str) -> None:
        """`light` or `dark`, as the system would prefer it."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def run(self, script: str) -> Any:
        """The value of an expression, or of what it promises."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise ScriptError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, condition: str, patience_s: float = _PATIENCE_S) -> None:
        """Until the condition is true: looked at in each frame, in the page."""
        deadline_s = time.monotonic() + patience_s
        while time.monotonic() < deadline_s:
            try:
                if self.run(f"new Promise(done => requestAnimationFrame(() => done(!!({condition}))))"):
                    return
            except ScriptError:
                if time.monotonic() + 1 > deadline_s:
                    raise
        raise ScriptError(f"did not come: {condition}\n{self.run('document.body.innerText')}")

    def text(self, selector: str) -> str:
        """As a person sees it; empty for what is not there."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        """With the mouse, in its middle, after scrolling there; again, when it has moved away from under the mouse."""
        found = f"document.querySelector({json.dumps(selector)})"
        for _ in range(5):
            self.wait(f"{found} && {found}.getClientRects().length > 0")
            at = self.run(
                f"(() => {{ const e = {found}; if (!e) return null;"
                " e.scrollIntoView({block: 'center'}); window.was_hit = false;"
                " e.addEventListener('click', () => { window.was_hit = true; }, {once: true, capture: true});"
                " const r = e.getBoundingClientRect(); return {x: r.x + r.width / 2, y: r.y + r.height / 2}; })()"
            )
            for kind in ("mousePressed", "mouseReleased") if at else ():
                self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
            if self.run("window.was_hit"):
                return
        raise ScriptError(f"cannot be hit: {selector}")

    def write(self, selector: str, text: str) -> None:
        """Into a field, in place of what is there."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.run(f"document.querySelector({json.dumps(selector)}).select?.()")
        self.call("Input.insertText", text=text)

    def key(self, name: str, *, shift: bool = False) -> None:
        text = {"text": "\r" if name == "Enter" else name} if name in {"Enter", " "} else {}
        common = {"key": name, "code": name if name != " " else "Space", "windowsVirtualKeyCode": _KEYS[name]}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, modifiers=8 if shift else 0, **common, **text)
            text = {}

    def focused(self) -> str:
        """What the focus is on: its id, its name or its text."""
        script = "(e => e === document.body ? 'BODY' : e.id || e.name || e.innerText)(document.activeElement)"
        return str(self.run(script))

    def tree(self) -> list[dict[str, Any]]:
        """What a screen reader is given: role, name and whether it can be focused, of all that is not left out."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {
                "role": node["role"]["value"],
                "name": node.get("name", {}).get("value", ""),
                "focusable": any(p["name"] == "focusable" for p in node.get("properties", ())),
            }
            for node in nodes
            if not node["ignored"]
        ]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions, and what the policy refused; each once."""
        self.run("0")  # what was said before has been read then
        found = []
        for event in [e for e in self._browser.events if e.get("sessionId") == self._session]:
            self._browser.events.remove(event)
            params = event["params"]
            match event["method"]:
                case "Runtime.exceptionThrown":
                    found.append(json.dumps(params["exceptionDetails"])[:500])
                case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                    found.append(json.dumps(params["args"])[:500])
                case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                    found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found

    def picture(self, file: Path, *, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))
