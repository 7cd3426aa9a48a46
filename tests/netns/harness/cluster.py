"""A cluster of nats-servers, as `make nats` unpacked them, on the loopback of a namespace."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from harness import proc
from harness.namespaces import Namespace
from harness.programs import Program
from harness.world import World

_ROOT = Path(__file__).parents[3] / "build" / "nats"
_SERVER = _ROOT / "usr" / "sbin" / "nats-server"
STREAM: Final = "OSSENSOR"
_GET = """
import sys, urllib.request as u
print(u.build_opener(u.ProxyHandler({})).open(sys.argv[1], timeout=5).read().decode())
"""
_CONFIGURATION = """
server_name: n{n}
listen: 127.0.0.1:{port}
http: 127.0.0.1:{http}
max_payload: {max_payload}
jetstream {{ store_dir: "{folder}", max_file_store: 10GB }}
{cluster}
"""


class Cluster:
    """Servers 0 to n - 1; each may be killed, and started again."""

    def __init__(self, world: World, count: int = 3, *, max_payload: str = "9MB", more: str = "") -> None:
        if not (_ROOT / ".unpacked").exists():
            pytest.skip("there is no nats-server: `make nats`")
        self._world = world
        self._namespace: Namespace = world.collector
        self._files = []
        routes = ", ".join(f'"nats://127.0.0.1:{6222 + n}"' for n in range(count))
        for n in range(count):
            cluster = f"cluster {{ name: c, listen: 127.0.0.1:{6222 + n}, routes: [{routes}] }}" if count > 1 else ""
            folder = world.folder / f"nats-{n}"
            folder.mkdir()
            file = folder / "server.conf"
            values = {"n": n, "port": 4222 + n, "http": 8222 + n, "folder": folder, "max_payload": max_payload}
            file.write_text(_CONFIGURATION.format(**values, cluster=cluster) + more)
            self._files.append(file)
        self.servers = [self._start(n) for n in range(count)]
        self.urls = ",".join(f"nats://127.0.0.1:{4222 + n}" for n in range(count))

    def _start(self, n: int) -> Program:
        return self._world.start(self._namespace, str(_SERVER), "-c", str(self._files[n]))

    def kill(self, n: int) -> None:
        self.servers[n].signal(signal.SIGKILL)
        self.servers[n].wait()

    def start(self, n: int) -> None:
        self.servers[n] = self._start(n)

    def stream(self) -> dict[str, Any] | None:
        """What a server that is there says of the stream; None when there is none, or nobody to ask."""
        for n, server in enumerate(self.servers):
            if not server.running():
                continue
            try:
                said = self._namespace.run(
                    sys.executable, "-c", _GET, f"http://127.0.0.1:{8222 + n}/jsz?streams=1&consumers=1&config=1"
                )
            except AssertionError:  # it has not begun to listen
                continue
            for account in json.loads(said).get("account_details") or []:
                for stream in account.get("stream_detail") or []:
                    if stream["name"] == STREAM and (stream.get("cluster") or {}).get("leader", "n0") == f"n{n}":
                        return dict(stream)
        return None

    def leader(self) -> int:
        """The number of the server that leads the stream, once one does."""
        stream = proc.eventually("the stream has a leader", self.stream)
        return int((stream.get("cluster") or {}).get("leader", "n0")[1:])

    def messages(self) -> int | None:
        """How many the stream holds; None when nobody says."""
        stream = self.stream()
        return None if stream is None else int(stream["state"]["messages"])
