"""The address at which a vSensor says that it is reached, and the host that a sensor is configured with.

Declared: ValueError (transport/hostport.py). Second oracle: Python's ipaddress reads the same address, which is one
that a sensor may be sent to; and the flow spelled again is read as the same flow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from ossensor.filters import CREDENTIAL_ENDPOINTS
from ossensor.transport.hostport import direct_flow, spelled


def seeds() -> Iterator[bytes]:
    yield from (b"10.0.3.7:8443", b"[2001:db8::7]:443", b"192.0.2.1:65535")


def target(data: bytes) -> bool:
    try:
        flow = direct_flow(data.decode("utf-8", "replace"))
    except ValueError as e:
        assert type(e) is ValueError  # said in our words
        return False
    written = re.fullmatch(rb"\[?([0-9A-Fa-f:.]+)\]?:([0-9]+)", data)
    assert written is not None
    address = ip_address(written[1].decode())
    assert (ip_address(flow.address), flow.port) == (address, int(written[2]))
    assert not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)
    mapped = getattr(address, "ipv4_mapped", None)
    assert not (mapped is not None and (mapped.is_loopback or mapped.is_link_local))
    assert flow.address not in CREDENTIAL_ENDPOINTS
    assert direct_flow(spelled(flow)) == flow
    return True
