"""How often a peer may show a wrong token. Pure.

A token cannot be guessed (antigena/token.py); this keeps whoever tries from filling the audit trail, and from taking
the event loop's time. A barred peer is refused without a look, the right token included, so that trying on teaches
nothing; another address is not affected.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

BURST: Final = 10  # a person who pastes the wrong file, and a script that does so before anybody looks
PER_S: Final = 1 / 6  # RFC 6238's kind of rate: ten a minute from then on
_REMEMBERED: Final = 1024
_HOST_BITS: Final = 64  # what one host of IPv6 has to choose from (RFC 4291 section 2.5.4)


class Attempts:
    """Failures by peer, which are forgotten at PER_S."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """After how many seconds this peer may try again; 0.0 for now."""
        return max(0.0, (self._level(_peer(address), now_s) - (BURST - 1)) / PER_S)

    def failed(self, address: str, now_s: float) -> None:
        peer = _peer(address)
        self._failed[peer] = (self._level(peer, now_s) + 1, now_s)
        self._failed.move_to_end(peer)
        if len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)

    def _level(self, peer: str, now_s: float) -> float:
        level, then_s = self._failed.get(peer, (0.0, now_s))
        return max(0.0, level - (now_s - then_s) * PER_S)


def _peer(address: str) -> str:
    try:
        given: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:  # a peer that is gone already has none
        return address
    if isinstance(given, IPv6Address):
        if given.ipv4_mapped is not None:
            return str(given.ipv4_mapped)
        return f"{int(given) >> _HOST_BITS:x}::"
    return str(given)
