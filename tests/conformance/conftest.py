"""The receiver under trial: one that is given by its URL, or both of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peer import Peer

from ossensor.transport.signing import Key
from ossensor.vsensor import certificate

DOCS = Path(__file__).parents[2] / "docs"
OSSENSOR = Path(sys.prefix) / "bin" / "ossensor"
KEY = "conformance-1d6f0c9b52e84a7793"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--receiver", help="https://HOST:PORT of a receiver to try")
    parser.addoption("--receiver-key", help="the key that it has")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = metafunc.config.getoption("--receiver", default=None)
    metafunc.parametrize("receiver", [given] if given else ["ossensor vsensor", "docs/receiver.py"], indirect=True)


def _started(argv: list[Any], **variables: str) -> tuple[subprocess.Popen[str], str]:
    """The process, and the URL that it says it listens on."""
    environment = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **variables}
    process = subprocess.Popen(list(map(str, argv)), env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = next(line for line in process.stdout if "https://" in line)
    return process, "https://" + line.partition("https://")[2].split(",")[0].strip()


@pytest.fixture(scope="session")
def receiver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    if request.param.startswith("https://"):
        secret = request.config.getoption("--receiver-key")
        assert secret, "--receiver-key is missing"
        yield Peer(request.param, Key(secret.encode()))
        return
    folder = tmp_path_factory.mktemp("receiver")
    if request.param == "docs/receiver.py":
        pair = certificate.ensure(folder / "tls", "127.0.0.1")
        (folder / "key").write_text(KEY + "\n")
        argv = [sys.executable, DOCS / "receiver.py", folder / "key", pair.certificate, pair.key, 0, folder]
        process, url = _started(argv)
    else:
        argv = [OSSENSOR, "vsensor", "--listen", "127.0.0.1:0", "--store", folder, "--no-fsync"]
        process, url = _started(argv, VSENSOR_HMAC_KEY=KEY)
    with process:
        try:
            peer = Peer(url, Key(KEY.encode()))
            # It says that it listens before it serves, and calls stale what was signed before it does.
            while peer.register().outcome == "stale":
                pass
            yield peer
        finally:
            process.terminate()
            process.communicate(timeout=90)
