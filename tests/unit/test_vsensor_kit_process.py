"""What the vSensor's tests of whole processes share: `ossensor vsensor` itself, and a sensor that tries again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import requests
from test_vsensor_kit import KEY, PATIENCE_S, RUN, Answer, Message, Signer, answer_of

from ossensor.transport.protocol import Outcome

# Backoff as in production would need a minute for ten deaths. And what a stop may take, production's seconds, is here
# more than a test may: so whatever waits for that fails, and a busy machine does not. The rest is the real process.
_DRIVER = """
import argparse, functools, os, sys, types
from ossensor.backoff import Backoff
from ossensor.vsensor import keeper
keeper.GRACE_S = 3600
keeper.Job = functools.partial(keeper.Job, patience_s=3600)
from ossensor.vsensor import command
from ossensor.vsensor.streams import notices, process
from ossensor import logs
command.STOP_S = logs._UNWRITTEN_S = notices._LAST_S = process._LAST_S = 3600
settings = types.ModuleType("ossensor.settings")
settings.load_vsensor_keys = lambda environ: [bytes.fromhex(environ["KEY_HEX"])]
settings.bpf_fault = lambda expression: None
sys.modules["ossensor.settings"] = settings
command.Backoff = lambda: Backoff(cap_s=0.1)
parser = argparse.ArgumentParser()
command.add_arguments(parser)
sys.exit(command.run(parser.parse_args(), os.environ))
"""


class Process:
    """`ossensor vsensor` as its own processes, told by its JSON lines."""

    def __init__(self, root: Path, *arguments: str, listen: str = "127.0.0.1:0") -> None:
        command = [sys.executable, "-c", _DRIVER, "--listen", listen, "--store", str(root), "--json", *arguments]
        environ = {**os.environ, "KEY_HEX": KEY.secret.hex()}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self.stderr = b""
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._take(line)

    def _take(self, line: bytes) -> None:
        with self._news:
            self.events.append(json.loads(line))
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.stderr = self.process.stderr.read()

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """The count-th event of this name."""
        with self._news:
            found = self._news.wait_for(lambda: len(self.all(event)) >= count, timeout=PATIENCE_S)
            assert found, (event, count, self.events, self.stderr)
            return self.all(event)[count - 1]

    def all(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()  # or the threads that read what it says would keep pytest from its end
            raise
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        else:
            self.stop(signal.SIGTERM)


class Sensor:
    """Sends batches over requests, as the uploader does, until each is acknowledged."""

    def __init__(self, address: str, ca: Path, run: str = RUN, retries: int = 400, pause_s: float = 0.05) -> None:
        self.address = address
        self.signer = Signer(address, run=run)
        self.retries = retries
        self.pause = threading.Event()
        self.pause_s = pause_s
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = str(ca)
        self.attempts = 0

    def send(self, message: Message) -> Answer:
        url = f"https://{self.address}{message.target}"
        headers = {n: v for n, v in message.fields if n not in {"Host", "Content-Length"}}
        response = self.session.put(url, data=message.body, headers=headers, timeout=PATIENCE_S)
        return answer_of(message, response.status_code, response.headers, response.content)

    def deliver(self, sequence: int, body: bytes, *, created: Any, **parts: Any) -> Outcome:
        """The acknowledgement; every retry is signed afresh."""
        for _ in range(self.retries):
            self.attempts += 1
            with contextlib.suppress(requests.RequestException):
                answer = self.send(self.signer.message(sequence, body, created_s=created(), **parts))
                if answer.outcome is not None and answer.outcome.acknowledged:
                    return answer.outcome
            self.pause.wait(self.pause_s)
        raise AssertionError(f"batch {sequence} was not acknowledged in {self.retries} attempts")

    def close(self) -> None:
        self.session.close()


@contextlib.contextmanager
def sensor(address: str, ca: Path, **options: Any) -> Iterator[Sensor]:
    with closing(Sensor(address, ca, **options)) as one:
        yield one
