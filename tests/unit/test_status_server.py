"""The status socket: real sockets, real clients that hang, hang up and knock without end; the loop is the test's."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ossensor.status import asking, server
from ossensor.status.asking import NoAnswerError, ask
from ossensor.status.document import SensorStatus, UploaderStatus, encode
from ossensor.status.judgement import verdict
from ossensor.status.server import Peer, StatusServer, kernel_address

PATIENCE_S = 120.0  # that only a hang reaches
DOCUMENT = b'{"format": 1, "health": "healthy"}\n'


class Loop:
    """A supervisor's loop, with nothing in it but the server; turned by the test, or by a thread."""

    def __init__(self, address: str, document: Callable[[], bytes]) -> None:
        self.selector = selectors.DefaultSelector()
        self.server = StatusServer(address, self.selector, document)
        self.now_s = 1000.0
        self.server.attend(self.now_s)
        self._over = False
        self._thread: threading.Thread | None = None

    def turn(self, timeout_s: float = 0.0) -> int:
        """Serves what is ready; returns how many events there were."""
        events = self.selector.select(timeout_s) if self.selector.get_map() else []
        for key, _ in events:
            key.data()
        return len(events)

    def turn_until_quiet(self) -> None:
        while self.turn():
            pass

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over:
            self.turn(0.01)

    def close(self) -> None:
        self._over = True
        if self._thread is not None:
            self._thread.join()
        self.server.close()
        self.selector.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Loop]]:
    loops: list[Loop] = []

    def made(address: str, document: Callable[[], bytes] = lambda: DOCUMENT) -> Loop:
        loops.append(Loop(address, document))
        return loops[-1]

    yield made
    for loop in loops:
        loop.close()


@pytest.fixture
def name() -> str:
    return f"@ossensor-test-{secrets.token_hex(8)}"


def _connected(address: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE_S)
    client.connect(kernel_address(address))
    return client


def _everything(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(1 << 16):
        data += piece
    client.close()
    return data


def test_to_connect_is_to_ask_and_the_answer_ends_the_connection(name: str, make: Callable[..., Loop]) -> None:
    make(name).start()

    assert ask(name, PATIENCE_S) == json.loads(DOCUMENT)


def test_a_path_is_its_owners_alone_and_goes_with_the_sensor(tmp_path: Path, make: Callable[..., Loop]) -> None:
    path = tmp_path / "status"
    loop = make(str(path))
    loop.start()

    assert ask(str(path), PATIENCE_S) == json.loads(DOCUMENT)
    assert path.stat().st_mode & 0o777 == 0o600
    loop.close()
    assert not path.exists()


def test_what_a_killed_sensor_left_at_the_path_is_replaced(tmp_path: Path, make: Callable[..., Loop]) -> None:
    path = str(tmp_path / "status")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(path)
    make(path).start()

    assert ask(path, PATIENCE_S) == json.loads(DOCUMENT)


def test_a_file_at_the_path_is_left_alone(tmp_path: Path, make: Callable[..., Loop]) -> None:
    path = tmp_path / "status"
    path.write_text("mine")
    loop = make(str(path))

    assert path.read_text() == "mine"
    assert not loop.selector.get_map()


def test_of_two_with_one_address_the_second_waits_for_the_first_to_go(name: str, make: Callable[..., Loop]) -> None:
    first, second = make(name), make(name, lambda: DOCUMENT.replace(b"healthy", b"degraded"))
    assert not second.selector.get_map()
    first.close()
    second.server.attend(second.now_s + 4)
    assert not second.selector.get_map()
    second.server.attend(second.now_s + 5)
    second.start()

    assert ask(name, PATIENCE_S)["health"] == "degraded"


def test_a_client_that_does_not_read_gets_what_fits_and_keeps_nobody_waiting(
    name: str, make: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = b'{"format": 1, "health": "' + b"x" * (8 << 20) + b'"}\n'
    answers = [long]
    loop = make(name, lambda: answers[-1])
    monkeypatch.setattr(server.time, "monotonic", lambda: loop.now_s)
    lazy = _connected(name)
    loop.turn_until_quiet()
    answers.append(DOCUMENT)
    loop.now_s += 1.0
    quick = _connected(name)
    loop.turn_until_quiet()
    assert _everything(quick) == DOCUMENT

    loop.server.attend(loop.now_s + 1.0)

    assert 0 < len(_everything(lazy)) < len(long)
    assert loop.server._clients == {}


def test_a_slow_client_gets_a_long_answer_whole(name: str, make: Callable[..., Loop]) -> None:
    long = b'{"format": 1, "health": "' + b"x" * (4 << 20) + b'"}\n'
    make(name, lambda: long).start()

    assert ask(name, PATIENCE_S) == json.loads(long)


def test_a_client_that_hangs_up_is_forgotten(name: str, make: Callable[..., Loop]) -> None:
    loop = make(name, lambda: b"x" * (8 << 20))
    client = _connected(name)
    loop.turn()
    assert len(loop.server._clients) == 1
    client.close()
    loop.turn_until_quiet()

    assert loop.server._clients == {}


def test_who_knocks_without_end_is_answered_so_often_a_second(name: str, make: Callable[..., Loop]) -> None:
    made: list[int] = []

    def document() -> bytes:
        made.append(1)
        return DOCUMENT

    loop = make(name, document)
    answered = 0
    for _ in range(100):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.setblocking(False)
        try:
            client.connect(kernel_address(name))
        except BlockingIOError:
            client.close()
            continue
        loop.turn_until_quiet()
        with contextlib.suppress(BlockingIOError):
            answered += bool(client.recv(100))
        client.close()
    assert answered == 32
    assert len(made) < answered  # gathered once in a tenth of a second, not for each

    loop.server.attend(loop.now_s + 1.0)
    loop.turn_until_quiet()
    last = _connected(name)
    loop.turn_until_quiet()

    assert _everything(last) == DOCUMENT


@pytest.mark.parametrize(
    "peer,owner,may",
    [
        (Peer(100, 0), 65534, True),
        (Peer(100, 65534), 65534, True),
        (Peer(100, 1000), 65534, False),
        (Peer(0, 0), 0, False),  # root in another container of the task
    ],
)
def test_root_and_the_owner_may_ask_if_they_are_of_this_container(peer: Peer, owner: int, *, may: bool) -> None:
    assert peer.may_ask(owner) is may


def test_a_stranger_gets_nothing(name: str, make: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "may_ask", lambda *_: False)
    make(name).start()

    with pytest.raises(NoAnswerError, match="answers only root and its own user"):
        ask(name, PATIENCE_S)


def test_the_kernel_says_who_asks(name: str, make: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Peer, int]] = []
    monkeypatch.setattr(Peer, "may_ask", lambda peer, owner: seen.append((peer, owner)) is None)
    make(name).start()
    ask(name, PATIENCE_S)

    assert seen == [(Peer(os.getpid(), os.geteuid()), os.geteuid())]


def test_nobody_there_is_told_from_one_who_hangs(name: str, tmp_path: Path) -> None:
    for address in (name, str(tmp_path / "none")):
        with pytest.raises(NoAnswerError, match=f"no sensor listens at {address}") as nobody:
            ask(address, PATIENCE_S)
        assert nobody.value.nobody_there
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as hung:
        hung.bind(kernel_address(name))
        hung.listen(0)
        with pytest.raises(NoAnswerError, match="it hangs, or is stopped") as hangs:
            ask(name, 0.1)
        with pytest.raises(NoAnswerError, match="too many ask"):
            ask(name, 0.1)

    assert not hangs.value.nobody_there


def test_a_name_that_another_container_holds_is_not_believed(
    name: str, make: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    make(name).start()
    monkeypatch.setattr(asking.Peer, "of", classmethod(lambda cls, _: cls(0, 0)))

    with pytest.raises(NoAnswerError, match="held by a process of another container"):
        ask(name, PATIENCE_S)


def test_a_reader_that_has_enough_ends_a_watch_without_a_word(make: Callable[..., Loop]) -> None:
    sensor = SensorStatus("0", "s", 1, "running", 1.0, "v:443", [], UploaderStatus("running", 0, 0, "", None))
    address = f"@ossensor-test-{secrets.token_hex(8)}"
    make(address, lambda: encode(sensor, verdict(sensor))).start()
    command = f"{sys.executable} -m ossensor status --watch --socket {address} | head -1"

    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, "OSSENSOR_CONFIG_PATH": "/nosuch/ossensor.cfg"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ossensor 0, sensor s: degraded, running for 1 s, pid 1\n"
