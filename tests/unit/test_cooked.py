"""What a watch shows, beside a kernel that a test plays."""

from __future__ import annotations

import errno
import socket

from ossensor.capture.cooked import Seen, Watch


class _Kernel(socket.socket):
    """Packets by interfaces of these names, as CPython gives them; None: an interface went down."""

    def __init__(self, *names: bytes | None) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._names = iter(names)

    def recvfrom(self, *_: int) -> tuple[bytes, tuple[str, int, int, int, bytes]]:
        try:
            name = next(self._names)
        except StopIteration:
            raise BlockingIOError from None
        if name is None:
            raise OSError(errno.ENETDOWN, "Network is down")
        return b"E", (name.decode(), 0x0800, 4, 1, b"")


def test_an_interface_that_goes_down_or_has_a_name_that_is_not_utf_8_hides_no_packet_of_others() -> None:
    with _Kernel(b"eth0", None, b"e\xff", b"eth1") as sock:
        assert list(Watch(sock).read(10)) == [Seen("eth0", True, b"E"), Seen("eth1", True, b"E")]
