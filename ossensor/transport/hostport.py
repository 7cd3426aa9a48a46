"""A vSensor's direct address, as `--advertise` and the reply to a registration spell it: ADDRESS:PORT. Pure.

Both ends hold it against the same rules. An address and no name: the reply is signed, and what a resolver said would
not be. Whoever holds the key could otherwise have every sensor send its question (a POST to a path of ours, inside TLS)
to what listens on the sensor's own loopback, or where the cloud hands out credentials.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from ossensor.filters import CREDENTIAL_ENDPOINTS, Flow, checked_flow

_FORM: Final = re.compile(r"(?:([0-9.]+)|\[([0-9A-Fa-f:.]+)\]):([1-9][0-9]{0,4})")


def direct_flow(text: str) -> Flow:
    """The address and port that `text` spells. ValueError, which says why in words, for one that is not to be used."""
    ipv4, ipv6, port = match.groups() if (match := _FORM.fullmatch(text)) else ("", "", "0")
    try:
        flow = checked_flow(ipv4 or ipv6, int(port))
    except ValueError:
        raise ValueError("it is not ADDRESS:PORT, with an IPv6 address in brackets") from None
    address = ip_address(flow.address)
    if address.is_loopback:
        raise ValueError("a loopback address is the sensor itself")
    if address.is_link_local or flow.address in CREDENTIAL_ENDPOINTS:
        # All of 169.254.0.0/16 and fe80::/10: other clouds have their endpoints there, too.
        raise ValueError("a link-local address may be a credential endpoint")
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        raise ValueError("nobody can be connected to there")
    return flow


def spelled(flow: Flow) -> str:
    """What `direct_flow` reads the flow from."""
    return f"[{flow.address}]:{flow.port}" if ":" in flow.address else f"{flow.address}:{flow.port}"
