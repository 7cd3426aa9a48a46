"""The sensor and the vSensor as somebody outside sees them: an argument list, an environment, log lines, a pid."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness import proc
from harness.namespaces import Namespace

OSSENSOR = Path(sys.prefix) / "bin" / "ossensor"
KEY = "netns-8c1f4e0b7a9d4d2e9b6f-key"
UPLOADER = "oss-upload"
_TAIL_LINES = 60
SHUT_IN_S = proc.HANGS_S  # within which a child that was forked this moment has its filter


def worker_of(interface: str) -> str:
    """The process name of an interface's capture worker, as the kernel cuts it."""
    return f"oss-cap-{interface}"[:15]


def environment(variables: Mapping[str, str | None]) -> dict[str, str]:
    """A whole environment: what any program needs, and these variables, less those that are None."""
    base = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    return base | {name: value for name, value in variables.items() if value is not None}


def log_line(line: str) -> str:
    """The line without what stands before the record: faulthandler writes its lines of a child that hangs in pieces."""
    return line[max(0, line.find('{"')) :]


class Program:
    """A running process, and the lines of its standard error as they come."""

    def __init__(self, argv: list[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._records: dict[str, list[dict[str, Any]]] = {}  # by message, of the first lines
        self._read_lines = 0
        self._lock = threading.Lock()
        self.expects_violations = False  # of what its processes may do
        self._reading = threading.Event()
        self._reading.set()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in stderr:
                self.lines.append(line.rstrip("\n"))
                self._reading.wait()

    def stop_reading(self) -> None:
        """From now on its standard error fills up, until it has ended."""
        self._reading.clear()

    def running(self) -> bool:
        return self._process.poll() is None

    def records(self, message: str, **fields: object) -> list[dict[str, Any]]:
        """The log records so far with this message and these fields; lines that are no JSON objects are passed over."""
        with self._lock:
            self._take_in()
            found = list(self._records.get(message, ()))
        return [record for record in found if all(record.get(name) == value for name, value in fields.items())]

    def _take_in(self) -> None:
        """Each line once: who waits for a record asks fifty times a second."""
        fresh = self.lines[self._read_lines :]
        self._read_lines += len(fresh)
        for line in fresh:
            try:
                record = json.loads(log_line(line))
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("message"), str):
                self._records.setdefault(record["message"], []).append(record)

    def wait_for(
        self, message: str, *, count: int = 1, timeout_s: float = proc.HANGS_S, **fields: object
    ) -> dict[str, Any]:
        """The `count`th record with this message and these fields, once it is there. Fails when the process ends."""

        def arrived() -> bool:
            over = not self._reader.is_alive()  # asked first: what a program that has ended said may be still unread
            return len(self.records(message, **fields)) >= count or over

        found = proc.happened(arrived, timeout_s) and self.records(message, **fields)[count - 1 :]
        assert found, f"never logged, or not {count} times: {message} {fields}\n{self.tail()}"
        return found[0]

    def wait_for_line(self, part: str, timeout_s: float = proc.HANGS_S) -> None:
        """Returns once a line with this part is there."""
        assert proc.happened(lambda: any(part in line for line in list(self.lines)), timeout_s), self.tail()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = proc.HANGS_S) -> int:
        """The exit code. Fails when the process does not end in time."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s\n{self.tail()}") from None
        finally:
            self._reading.set()
        self._reader.join(proc.HANGS_S)
        return code

    def terminate(self, timeout_s: float = proc.HANGS_S) -> tuple[int, float]:
        """Exit code, and how many seconds SIGTERM took to bring it about."""
        start = time.monotonic()
        self.signal(signal.SIGTERM)
        code = self.wait(timeout_s)
        return code, time.monotonic() - start

    def tail(self) -> str:
        return "\n".join(self.lines[-_TAIL_LINES:])

    def close(self) -> None:
        """Ends the process and everything below it, and shows its last lines, which pytest prints of failed tests."""
        if self.running():
            proc.kill(proc.tree(self.pid))
        self._process.wait()
        self._reading.set()
        self._reader.join(proc.HANGS_S)
        print(f"--- the last lines of {self._process.args!r}\n{self.tail()}")
        assert not [line for line in self.lines if KEY in line], "the key is in the log"
        violations = [line for line in self.lines if "system call that it may not make" in line]
        assert bool(violations) is self.expects_violations, violations


class Sensor(Program):
    """`ossensor run` inside a namespace, or under a command that runs it there, and its processes by role."""

    def __init__(self, namespace: Namespace, env: Mapping[str, str], *, under: Iterable[str] = ()) -> None:
        super().__init__(namespace.inside(*under, OSSENSOR, "run"), env)
        self.expects_filters = env.get("OSSENSOR_SECCOMP") != "off"

    def terminate(self, timeout_s: float = proc.HANGS_S) -> tuple[int, float]:
        self._check_filters()
        return super().terminate(timeout_s)

    def close(self) -> None:
        try:
            self._check_filters()
        finally:
            super().close()

    def _check_filters(self) -> None:
        """Fails when a child lacks a filter of system calls, or has one where the settings say none."""
        assert proc.happened(lambda: not self._wrong(), SHUT_IN_S), f"filters of system calls: {self._wrong()}"

    def _wrong(self) -> list[str]:
        """Children with other filters than they should have, beside those that this test run itself is under."""
        inherited, wrong = max(proc.filters(os.getpid())), []
        for pid in proc.tree(self.pid):
            name, found = proc.comm(pid), proc.filters(pid)
            own = name.startswith("oss-") and proc.at_work(pid)  # it is called so before it does anything else
            if own and found and (min(found) > inherited) is not self.expects_filters:
                wrong.append(f"{name} {found}")
        return wrong

    def named(self, name: str) -> list[int]:
        """The pids of the sensor's processes of this name."""
        return [pid for pid in proc.tree(self.pid)[1:] if proc.comm(pid) == name and proc.alive(pid)]

    def books(self, interface: str = "cap0") -> dict[str, int]:
        """The last account of an interface that was captured once, from the line that it ends with."""
        (line,) = [line for line in self.lines if "books closed: " in line and f'"interface": "{interface}"' in line]
        return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}

    def one(self, name: str) -> int:
        """The pid of its process of this name, once there is one and no more: a successor may overlap with another."""

        def just_one() -> list[int]:
            found = self.named(name)
            return found if len(found) == 1 else []

        (pid,) = proc.eventually(f"one process {name}", just_one)
        return pid

    def kill(self, name: str) -> int:
        """Kills the process of this name, and returns its successor's pid once there is one, for it may back off."""
        return self.successor(name, self.strike(name))

    def strike(self, name: str) -> int:
        """Kills the process of this name, and returns its pid once it is dead: what is struck next is another."""
        victim = self.one(name)
        os.kill(victim, signal.SIGKILL)
        proc.eventually(f"{name} is dead", lambda: not proc.alive(victim))
        return victim

    def successor(self, name: str, victim: int) -> int:
        """The pid of the process that has taken the victim's place, once there is one."""

        def successor() -> list[int]:
            assert self.running(), f"the sensor gave up\n{self.tail()}"
            return [pid for pid in self.named(name) if pid != victim]

        (pid,) = proc.eventually(f"a successor of {name}", successor)
        return pid


_HEALTH = """
import http.client, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
connection = http.client.HTTPSConnection(sys.argv[1], int(sys.argv[2]), context=context, timeout=60)
try:
    connection.request("GET", "/healthz")
    print(connection.getresponse().status)
except (OSError, http.client.HTTPException) as e:
    print(e)
"""


class VSensor(Program):
    """`ossensor vsensor` inside a namespace; constructed once it listens."""

    def __init__(
        self,
        namespace: Namespace,
        host: str,
        port: int,
        store: Path,
        tls: tuple[Path, Path],
        keys: Mapping[str, str | None] = MappingProxyType({"VSENSOR_HMAC_KEY": KEY}),
        *,
        options: tuple[str, ...] = (),
    ) -> None:
        listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        cert, key = tls
        argv: list[str | Path] = ["vsensor", "--listen", listen, "--store", store, "--tls-cert", cert, "--tls-key", key]
        super().__init__(namespace.inside(OSSENSOR, *argv, *options), environment(keys))
        if not proc.happened(lambda: namespace.listens(port) or not self.running(), proc.HANGS_S):
            self.close()  # whoever constructs it has nothing to end it by
        assert self.running(), self.tail()
        self._namespace, self._asking = namespace, (sys.executable, "-c", _HEALTH, host, str(port))

    def wait_until_well(self) -> None:
        """Returns once it answers that it is well. It listens from before there is anybody to answer."""
        proc.eventually("the vSensor is well", lambda: self._namespace.run(*self._asking) == "200\n")

    def kill_server(self) -> None:
        """Kills the serving child, and returns once its keeper has started another."""
        (victim,) = proc.eventually("one serving child", self._serving)
        os.kill(victim, signal.SIGKILL)
        proc.eventually("a new serving child", lambda: [p for p in self._serving() if p != victim])

    def kill_all(self) -> None:
        """The keeper first, or it would start another server."""
        family = proc.tree(self.pid)
        proc.gone_after_s(family, lambda: proc.kill(family))
        self.wait()

    def _serving(self) -> list[int]:
        return [pid for pid in proc.children(self.pid) if proc.alive(pid)]


def make_certificate(folder: Path, names: Iterable[str]) -> tuple[Path, Path]:
    """A certificate of its own authority for these subject alternative names, and its private key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=vsensor.test", "-addext", f"subjectAltName={','.join(names)}", "-days", "2"]
    argv: list[str | Path] = ["openssl", "req", "-x509", *curve, *subject, "-keyout", key, "-out", cert]
    subprocess.run(argv, check=True, capture_output=True)
    cert.chmod(0o644)
    return cert, key
