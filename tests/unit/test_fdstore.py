"""What is left with the service manager, and what is made of it: real descriptors over a real socket."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossensor import legacy
from ossensor.filters import Flow
from ossensor.legacy import FlowKeeper, Legacy, Note, UnusableError
from ossensor.region import Region
from ossensor.systemd.fdstore import Store, passed

NOTE = Note("eth0", 2, "00" * 16, 1, 16 << 20, 100)


class Keeper:
    """A manager's end, that keeps by name what it is sent."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)
        self.kept: dict[str, list[int]] = {}
        self.said: list[str] = []

    def attend(self) -> None:
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._socket, 4096, 16)
            except BlockingIOError:
                return
            self.said.append(message.decode())
            values = dict(line.split("=", 1) for line in message.decode().splitlines())
            if "FDSTORE" in values:
                self.kept[values["FDNAME"]] = fds
            else:
                self._drop(values["FDNAME"])

    def _drop(self, name: str) -> None:
        for fd in self.kept.pop(name):
            os.close(fd)

    def close(self) -> None:
        self._socket.close()
        for name in list(self.kept):
            self._drop(name)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    made = Keeper(tmp_path)
    yield made
    made.close()


def _store(keeper: Keeper, most: str = "8") -> Store:
    return Store({"NOTIFY_SOCKET": keeper.address, "FDSTORE": most})


def _descriptor(text: str) -> int:
    fd = os.memfd_create("test")
    os.write(fd, text.encode())
    return fd


def test_a_group_is_kept_whole_in_one_message_whatever_its_socket_says(keeper: Keeper) -> None:
    fds = [_descriptor("a"), _descriptor("b")]
    name = _store(keeper).keep("port", fds)
    keeper.attend()

    assert keeper.said == [f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0"]
    assert [os.pread(fd, 10, 0) for fd in keeper.kept[name]] == [b"a", b"b"]
    for fd in fds:
        os.close(fd)


def test_names_are_never_used_twice_and_a_name_that_is_not_kept_is_not_forgotten(keeper: Keeper) -> None:
    store, fd = _store(keeper), _descriptor("a")
    first, second = store.keep("port", [fd]), store.keep("port", [fd])
    store.forget(first)
    store.forget(first)
    store.forget("")
    keeper.attend()
    os.close(fd)

    assert first != second
    assert list(keeper.kept) == [second]
    assert keeper.said[2:] == [f"FDSTOREREMOVE=1\nFDNAME={first}"]


def test_no_more_is_kept_than_there_is_room_for(keeper: Keeper) -> None:
    store, fd = _store(keeper, "5"), _descriptor("a")
    store.kept_before("earlier", 3)

    assert store.keep("port", [fd, fd, fd]) == ""
    assert store.keep("port", [fd, fd]) != ""
    assert store.keep("port", [fd]) == ""
    store.forget("earlier")
    assert store.keep("port", [fd, fd, fd]) != ""
    os.close(fd)


@pytest.mark.parametrize("most", ["", "0", "many", "-1"])
def test_where_there_is_no_store_nothing_is_kept(keeper: Keeper, most: str) -> None:
    assert _store(keeper, most).keep("port", [0]) == ""
    assert Store({"FDSTORE": "8"}).keep("port", [0]) == ""
    keeper.attend()

    assert keeper.said == []


def test_what_an_earlier_life_left_is_given_back_where_nothing_is_kept_any_more(keeper: Keeper) -> None:
    store = _store(keeper, "0")
    keeper.kept["earlier"] = []
    store.kept_before("earlier", 3)
    keeper.attend()

    assert not store.holds("earlier")
    assert keeper.kept == {}


def test_a_manager_that_is_gone_keeps_nothing(tmp_path: Path) -> None:
    store = Store({"NOTIFY_SOCKET": str(tmp_path / "nobody"), "FDSTORE": "8"})

    assert store.keep("port", [0]) == ""
    assert not store.holds("")


_PASSED = """
import os
from ossensor.systemd.fdstore import passed
for number, text in enumerate(("a", "b", "c"), 3):
    fd = os.memfd_create("x"); os.write(fd, text.encode()); os.dup2(fd, number); fd == number or os.close(fd)
pid = os.getpid()
groups = passed({"LISTEN_PID": str(pid), "LISTEN_FDS": "4", "LISTEN_FDNAMES": "one:two:one"}, pid)
print({name: [(os.pread(fd, 9, 0).decode(), os.get_inheritable(fd)) for fd in fds] for name, fds in groups.items()})
"""


def test_what_is_passed_is_grouped_by_name_and_inherited_no_further() -> None:
    # In a process of its own: descriptors 3 and up are pytest's here. The fourth is not there.
    said = subprocess.run([sys.executable, "-c", _PASSED], capture_output=True, text=True, check=True).stdout

    assert said == "{'one': [('a', False), ('c', False)], 'two': [('b', False)]}\n"


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": "4711", "LISTEN_FDS": "all"}]
)
def test_what_is_meant_for_another_process_is_left_alone(environ: dict[str, str]) -> None:
    assert passed(environ, 4711) == {}


# -- notes and groups -------------------------------------------------------------------------------------------------


def test_a_note_reads_back_as_it_was_and_cannot_be_changed() -> None:
    fd = NOTE.sealed()

    assert Note.read(fd) == NOTE
    with pytest.raises(PermissionError):
        os.write(fd, b"x")
    os.close(fd)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 2}',
        '{"format": 1, "label": "eth0"}',
        '{"format": 1, "label": "../x", "ifindex": 2, "epoch": "' + "00" * 16 + '", "linktype": 1, "ring_bytes": 1,'
        ' "timeout_ms": 1}',
        '{"format": 1, "label": "eth0", "ifindex": 2, "epoch": "00", "linktype": 1, "ring_bytes": 1, "timeout_ms": 1}',
        '{"format": 1, "label": "eth0", "ifindex": 2, "epoch": 7, "linktype": 1, "ring_bytes": 1, "timeout_ms": 1}',
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_what_is_no_note_is_none(text: str, *, sealed: bool) -> None:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, text.encode())
    if sealed:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)

    assert Note.read(fd) is None
    os.close(fd)


def test_a_note_that_somebody_could_change_is_none() -> None:
    fd = NOTE.sealed()
    copy = _descriptor(os.pread(fd, 4096, 0).decode())

    assert (Note.read(fd), Note.read(copy)) == (NOTE, None)
    os.close(fd)
    os.close(copy)


@pytest.fixture
def group() -> Iterator[dict[str, int]]:
    region = Region.create(2, 4096)
    made = {"slots": region.fd, "note": NOTE.sealed(), "socket": socket.socket(socket.AF_UNIX).detach()}
    region.close()
    yield made
    for fd in made.values():
        os.close(fd)


def test_a_socket_that_captures_nothing_is_left_to_the_caller(group: dict[str, int]) -> None:
    with pytest.raises(UnusableError, match="its socket captures nothing"):
        Legacy.of("port-1", list(group.values()))

    assert [os.fstat(fd).st_nlink >= 0 for fd in group.values()] == [True] * 3


@pytest.mark.parametrize("missing", ["slots", "note", "socket"])
def test_a_group_that_is_not_whole_is_left_to_the_caller(group: dict[str, int], missing: str) -> None:
    fds = [fd for name, fd in group.items() if name != missing]
    with pytest.raises(UnusableError):
        Legacy.of("port-1", fds)

    assert [os.fstat(fd).st_nlink >= 0 for fd in fds] == [True, True]


def test_slots_of_another_layout_are_not_taken_over(group: dict[str, int]) -> None:
    other = _descriptor("x" * 8192)
    with pytest.raises(UnusableError, match="its slots are of another version"):
        Legacy.of("port-1", [group["note"], group["socket"], other])
    os.close(other)


def test_addresses_are_there_for_the_next_life_and_the_one_after(keeper: Keeper) -> None:
    store, flows = _store(keeper), {Flow("10.0.0.1", 443), Flow("10.0.0.2", 443)}
    FlowKeeper(store).keep(flows)
    for _ in range(2):
        keeper.attend()
        ((name, fds),) = keeper.kept.items()
        estate = legacy.understood({name: [os.dup(fd) for fd in fds]}, store := _store(keeper))
        assert (estate.ports, estate.flow_keeper.flows) == ([], flows)
        assert store.holds(name)
    estate.flow_keeper.keep({Flow("10.0.0.3", 443)})
    keeper.attend()

    ((later, _),) = keeper.kept.items()
    assert later != name


def test_what_is_not_understood_is_closed_and_forgotten(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    store = _store(keeper)
    name = store.keep("flows", [fd := _descriptor("nonsense")])
    estate = legacy.understood({name: [fd]}, store)
    keeper.attend()

    assert (estate.ports, estate.flow_keeper.flows) == ([], frozenset())
    assert keeper.kept == {}
    assert caplog.messages == ["descriptors of an earlier life are of no use"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
