"""A port of loopback that stays a test's own while the server at it is killed and started again."""

from __future__ import annotations

import socket


def held_port() -> socket.socket:
    """Bound to the port, and never listening, for as long as it is open.

    The kernel gives a bound port to nobody who asks for any, and does give it to who names it, if both have
    SO_REUSEADDR and neither listens yet (inet_csk_get_port()): our vSensor sets that, and all that is written in Go.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder
