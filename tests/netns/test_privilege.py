"""What worker and uploader have in their hands: descriptors by kind, and no way to a packet socket of their own."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import proc
from harness.namespaces import in_user_namespace
from harness.programs import UPLOADER, worker_of
from harness.world import World

from ossensor.workers import privileges

pytestmark = [pytest.mark.netns, pytest.mark.slow]


def _inodes(pid: int, table: str, column: int) -> set[str]:
    lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    return {fields[column] for fields in map(str.split, lines) if len(fields) > column}


def _descriptors(pid: int) -> Counter[str]:
    """The process's descriptors above standard error, by kind."""
    kinds = dict.fromkeys(_inodes(pid, "packet", 8), "packet")
    kinds |= dict.fromkeys(_inodes(pid, "unix", 6), "unix")
    kinds |= {inode: "tcp" for table in ("tcp", "tcp6") for inode in _inodes(pid, table, 9)}
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:  # it has just been closed
            continue
        if int(entry.name) > 2:
            kind, _, inode = target.partition(":[")
            found.append(kinds.get(inode.rstrip("]"), target) if kind == "socket" else kind)
    return Counter(found)


def test_worker_and_uploader_hold_the_descriptors_on_their_list_and_no_other(world: World) -> None:
    world.add_link("cap0", "cap1")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", "cap1")
    world.send("cap0", 10)
    proc.eventually("stored", lambda: world.holds("cap0", 10))

    # The packet socket, under one number; both wakeup ends, and log records; doorbells out and in.
    assert _descriptors(sensor.one(worker_of("cap0"))) == {"packet": 1, "unix": 3, "pipe": 2}

    # The supervisor's channel, the wakeup pair, the senders' pair, log records; of each interface its memory and two
    # doorbells. It may be resolving a name at this moment, or a connection may begin: then there is a next moment.
    def uploader() -> Counter[str]:
        return _descriptors(sensor.one(UPLOADER))

    held = {"unix": 6, "/memfd:ossensor-slots (deleted)": 2, "pipe": 4}
    found = uploader()
    proc.eventually(f"{held}, not {found}", lambda: uploader() - Counter(tcp=5) == held)
    assert 1 <= uploader()["tcp"] <= 5  # the senders, and the exchange about Antigena


def _attempts() -> dict[str, Callable[[], object]]:
    return {
        "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
        "shadow": lambda: Path("/etc/shadow").read_bytes(),
        "parent's memory": lambda: Path(f"/proc/{os.getppid()}/mem").open("rb"),
        "root again": lambda: os.setuid(0),
    }


@pytest.mark.skipif(in_user_namespace(), reason="a user namespace with one user has no other to change to")
@pytest.mark.parametrize("what", list(_attempts()))
def test_without_privilege_no_socket_or_file_of_others_can_be_opened(what: str) -> None:
    pid = os.fork()
    if not pid:
        code = 3
        try:
            privileges.drop_everything(65534, 65534)
            _attempts()[what]()
            code = 4
        except PermissionError:
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0
