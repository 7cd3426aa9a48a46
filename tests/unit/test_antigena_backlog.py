"""Of the packets that wait, the newest segment of each sender is answered, and all that opens or ends."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from ossensor.antigena import packets
from ossensor.antigena.actions import End
from ossensor.antigena.backlog import newest
from ossensor.antigena.segments import ACK, FIN, RST, SYN

HOSTS = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}


def segment(version: int, port: int, *, back: bool = False, sequence: int = 1, flags: int = ACK) -> bytes:
    one, other = (ip_address(host) for host in HOSTS[version])
    ends = End(one, port), End(other, 80)
    return packets.tcp(*(ends[::-1] if back else ends), sequence, 7, flags)


@pytest.mark.parametrize("version", [4, 6])
def test_of_each_direction_of_each_connection_the_newest_is_kept(version: int) -> None:
    waiting = [
        segment(version, 1000, sequence=1),
        segment(version, 1001, sequence=1),
        segment(version, 1000, back=True, sequence=5),
        segment(version, 1000, sequence=2),
        segment(version, 1000, back=True, sequence=6),
        segment(version, 1000, sequence=3),
    ]

    assert newest(waiting) == [1, 4, 5]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK, FIN | ACK, RST, RST | ACK])
def test_what_opens_or_ends_is_kept_whatever_came_after(version: int, flags: int) -> None:
    waiting = [segment(version, 1000, flags=flags), segment(version, 1000), segment(version, 1000, sequence=2)]

    assert newest(waiting) == [0, 2]


def test_what_is_not_looked_into_is_kept() -> None:
    plain = segment(4, 1000)
    one, other = (End(ip_address(host), 53) for host in HOSTS[4])
    with_options = bytes([0x46]) + plain[1:20] + bytes(4) + plain[20:]
    first_fragment = plain[:6] + b"\x20\x00" + plain[8:]
    later_fragment = plain[:6] + b"\x00\x01" + plain[8:]
    others = [packets.udp(one, other), with_options, first_fragment, later_fragment, plain[:39], b""]
    extended = bytearray(segment(6, 1000))
    extended[6] = 43
    others.append(bytes(extended))

    assert newest(others + others) == list(range(2 * len(others)))


def test_nothing_that_can_be_sent_makes_it_raise_and_each_kept_place_is_one_of_those_given() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    starts = [segment(4, 1000), segment(6, 1000)]
    waiting = [bytearray(rng.choice(starts))[: rng.randint(0, 80)] for _ in range(20_000)]
    for packet in waiting:
        for _ in range(rng.randint(0, 3)):
            if packet:
                packet[rng.randrange(len(packet))] = rng.randrange(256)
    kept = newest([bytes(packet) for packet in waiting])

    assert kept == sorted(set(kept))
    assert 0 < len(kept) < len(waiting)
