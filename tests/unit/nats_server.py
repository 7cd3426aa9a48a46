"""One nats-server, as `make nats` unpacked it, on loopback, at a port that stays its own."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Self

import pytest
from held_port import held_port

_ROOT = Path(__file__).parents[2] / "build" / "nats"


class NatsServer:
    """Runs inside `with`; may be killed and started again."""

    def __init__(self, folder: Path, more: str = "max_payload: 9MB") -> None:
        if not (_ROOT / ".unpacked").exists():
            pytest.skip("there is no nats-server: `make nats`")
        self._folder = folder
        self._more = more
        self._holder = held_port()
        self.port: int = self._holder.getsockname()[1]
        folder.mkdir()
        self.start()

    def start(self) -> None:
        configuration = self._folder / "server.conf"
        configuration.write_text(
            f'listen: 127.0.0.1:{self.port}\nports_file_dir: "{self._folder}"\n'
            f'jetstream {{ store_dir: "{self._folder}", max_file_store: 1GB }}\n{self._more}\n'
        )
        argv = ["setpriv", "--pdeathsig", "KILL", str(_ROOT / "usr/sbin/nats-server"), "-c", str(configuration)]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        ports = self._folder / f"nats-server_{self.process.pid}.ports"
        deadline_s = time.monotonic() + 120
        while not ports.exists() or not ports.read_text():
            assert self.process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < deadline_s, "the server does not begin to listen"
            time.sleep(0.01)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._holder.close()
