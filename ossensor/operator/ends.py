"""An end of a connection, as people type it: ADDRESS[/LENGTH][:PORT], `*` for any address, [ADDRESS]:PORT for IPv6."""

from __future__ import annotations

import re
from typing import Any, Final

_BRACKETS: Final = re.compile(r"\[(?P<address>[^\]]*)\](?::(?P<port>.*))?", re.DOTALL)
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}")


def read_end(text: str, *, ports: bool = True) -> dict[str, Any]:
    """The `network` and `port` of a side, for parse_action, which judges them. Raises ValueError for no such form."""
    if brackets := _BRACKETS.fullmatch(text):
        address, port = brackets["address"], brackets["port"]
    elif text.count(":") > 1:  # IPv6 alone: which of its colons would begin a port, nobody knows
        address, port = text, None
    else:
        address, colon, rest = text.partition(":")
        port = rest if colon else None
    if not address or "[" in address or (port is not None and (not ports or _PORT.fullmatch(port) is None)):
        raise ValueError(f"{text!r} is not ADDRESS[/LENGTH]" + ("[:PORT], with IPv6 in brackets" if ports else ""))
    side: dict[str, Any] = {"network": None if address == "*" else address}
    if port is not None:
        side["port"] = int(port)
    return side
