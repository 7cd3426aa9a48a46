"""Which direct addresses are addresses, and which of them nobody should be sent to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossensor.filters import CREDENTIAL_ENDPOINTS, Flow
from ossensor.transport.hostport import direct_flow, spelled

NO_FORM = "it is not ADDRESS:PORT, with an IPv6 address in brackets"
LINK_LOCAL = "a link-local address may be a credential endpoint"
LOOPBACK = "a loopback address is the sensor itself"
NOBODY = "nobody can be connected to there"


@pytest.mark.parametrize(
    "text,flow",
    [
        ("10.9.0.2:8443", Flow("10.9.0.2", 8443)),
        ("192.0.2.1:65535", Flow("192.0.2.1", 65535)),
        ("[fd00:9::2]:443", Flow("fd00:9::2", 443)),
        ("[FD00:0:0:0:0:0:0:1]:1", Flow("fd00::1", 1)),
        ("[::ffff:10.9.0.2]:8443", Flow("10.9.0.2", 8443)),
    ],
)
def test_an_address_and_a_port_are_read_into_their_canonical_spelling(text: str, flow: Flow) -> None:
    assert direct_flow(text) == flow
    assert direct_flow(spelled(flow)) == flow


@pytest.mark.parametrize(
    "text,why",
    [
        *((text, NO_FORM) for text in ("", "10.9.0.2", "10.9.0.2:", ":8443", "10.9.0.2:0", "10.9.0.2:65536")),
        *((text, NO_FORM) for text in ("10.9.0.2:08443", "10.9.0.2:٣", "10.9.0.2:1 ", "10.9.0.2:1\n", "10.9.0.2:+1")),
        *((text, NO_FORM) for text in ("vsensor.test:443", "fd00:9::2:443", "[fd00:9::2]", "[10.9.0.2]x:1")),
        *((text, NO_FORM) for text in ("[fe80::1%eth0]:443", "1.2.3:443", "010.9.0.2:443", "https://10.9.0.2:443")),
        *((text, LOOPBACK) for text in ("127.0.0.1:8443", "127.1.2.3:1", "[::1]:443", "[::ffff:127.0.0.1]:443")),
        *((f"[{a}]:80" if ":" in a else f"{a}:80", LINK_LOCAL) for a in CREDENTIAL_ENDPOINTS),
        *((text, LINK_LOCAL) for text in ("169.254.0.7:80", "[fe80::1]:443", "[::ffff:169.254.170.2]:80")),
        *(
            (text, NOBODY)
            for text in ("0.0.0.0:443", "[::]:443", "224.0.0.1:443", "255.255.255.255:443", "[ff02::1]:1")
        ),
        # NAT64 and "IPv4-compatible" spellings of what was refused above
        *((text, NOBODY) for text in ("[64:ff9b::a9fe:aa02]:80", "[::169.254.170.2]:80")),
    ],
)
def test_what_is_no_address_or_not_to_be_used_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the text is compared below, whole
        direct_flow(text)

    assert str(refused.value) == why


@given(st.text())
def test_whatever_is_named_is_read_or_refused(text: str) -> None:
    try:
        flow = direct_flow(text)
    except ValueError:
        return

    assert direct_flow(spelled(flow)) == flow
