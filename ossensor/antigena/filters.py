"""Kernel filters that let pass what is ordered ended and nothing else: all other traffic costs no Python. Pure.

Invariant: a filter misses no packet of a connection that its orders concern, but for our own resets. What it lets
through beyond that (IPv6 with extension headers, behind which it does not look for ports) the enforcer passes over.

The programs are written here and not by libpcap, whose optimizer drops alternatives: 1.10.3 lets only the first half of
`(ip6 src net fd00::/112 and dst port 2) or (ip6 src net fd00::/112 and src port 2)` pass, and issues 33, 42, 57, 143,
430, 434 and 1513 of the-tcpdump-group/libpcap are of that kind. Without the optimizer its programs are seven times as
long. An order that is silently not enforced is the one fault that nobody would notice. What is needed is regular, too:
load, compare, go on. So the length is known beforehand. Addresses, protocol and ports are loaded into scratch memory
once: the kernel makes one instruction of a load from there and a dozen, or a call, of one from the packet
(net/core/filter.c, convert_bpf_ld_abs), and what it makes of a program has to fit into net.core.optmem_max.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final, Literal, TypeAlias

from ossensor.assembler import (
    AND,
    JA,
    JEQ,
    JSET,
    LD_ABS,
    LD_IMM,
    LD_MEM,
    LDB_ABS,
    LDB_IND,
    LDH_ABS,
    LDH_IND,
    LDX_IMM,
    LDX_MSH,
    MAX_INSTRUCTIONS,
    RET,
    ST,
    Line,
    Text,
    assembled,
    length,
)
from ossensor.filters import checked_flow

from .actions import Action, Network, Side
from .guards import Guards
from .packets import OUR_WINDOW
from .segments import RST, SEEN_BYTES

_Version: TypeAlias = Literal[4, 6]

# Scratch memory, 16 words. _PROTOCOL holds 6, 17 or _EXTENDED; an address begins at its word.
_PROTOCOL, _SOURCE_PORT, _DESTINATION_PORT, _SOURCE, _DESTINATION = 0, 1, 2, 3, 7
_TCP, _UDP, _EXTENDED = 6, 17, 256
_NUMBERS: Final = {"tcp": _TCP, "udp": _UDP}
# Hop-by-hop, routing, fragment, AH, destination, mobility, HIP, shim6, as segments.py knows them.
_EXTENSIONS: Final = (0, 43, 44, 51, 60, 135, 139, 140)
# In the IP header: where the addresses are, one after the other, and how many words each has.
_ADDRESSES_AT: Final[dict[_Version, tuple[int, int]]] = {4: (12, 1), 6: (8, 4)}


@dataclass(frozen=True, slots=True)
class Program:
    """One watch's filter, as capture.bpf.attach takes it, and the ids of the orders that it is for."""

    instructions: bytes
    ids: frozenset[str]


def programs(actions: Iterable[Action], guards: Guards, *, most_instructions: int = MAX_INSTRUCTIONS) -> list[Program]:
    """Filters for all the orders together, as few as hold them; none for none. They see a packet from IP on.

    Ids are unique, as in a Table. ValueError when the guards alone fill a program: some hundreds of flows and networks.
    """
    room = most_instructions - length(_text([], guards))
    groups: list[list[Action]] = []
    left = 0
    for action in actions:
        takes = length(_action(action))
        if takes > room:
            raise ValueError("more own flows and protected networks than a filter holds")
        if takes > left:
            groups.append([])
            left = room
        groups[-1].append(action)
        left -= takes
    return [Program(assembled(_text(group, guards)), frozenset(action.id for action in group)) for group in groups]


def _text(actions: list[Action], guards: Guards) -> Text:
    return [
        *(Line(LDB_ABS, 0), Line(AND, 0xF0)),
        *(Line(JEQ, 4 << 4, otherwise="not 4"), Line(JA, then="IPv4"), "not 4"),
        *(Line(JEQ, 6 << 4, otherwise="neither"), Line(JA, then="IPv6"), "neither", Line(RET, 0)),
        *("IPv4", *_addresses(4), *_transport_over_4(), *_verdicts(4, actions, guards)),
        *("IPv6", *_addresses(6), *_transport_over_6(), *_verdicts(6, actions, guards)),
    ]


def _addresses(version: _Version) -> Iterator[Line]:
    """Into memory."""
    at, words = _ADDRESSES_AT[version]
    for place in (_SOURCE, _DESTINATION):
        for word in range(words):
            yield from (Line(LD_ABS, at), Line(ST, place + word))
            at += 4


def _transport_over_4() -> Text:
    """Protocol and ports into memory. Later fragments, which have no ports, and other protocols are refused."""
    return [
        *(Line(LDH_ABS, 6), Line(JSET, 0x1FFF, otherwise="first"), Line(RET, 0), "first"),
        *(Line(LDB_ABS, 9), Line(JEQ, _TCP, then="4 known"), Line(JEQ, _UDP, then="4 known"), Line(RET, 0)),
        *("4 known", Line(ST, _PROTOCOL), Line(LDX_MSH, 0), *_ports(), *_ours_refused(4)),
    ]


def _transport_over_6() -> Text:
    return [
        *(Line(LDB_ABS, 6), Line(JEQ, _TCP, then="6 known"), Line(JEQ, _UDP, then="6 known")),
        *(Line(JEQ, kind, then="extended") for kind in _EXTENSIONS),
        # The ports are stored here, too, though nobody reads them: the kernel wants every path to store what is loaded.
        *(Line(RET, 0), "extended", Line(LD_IMM, _EXTENDED), Line(ST, _PROTOCOL)),
        *(Line(ST, _SOURCE_PORT), Line(ST, _DESTINATION_PORT), Line(JA, then="6 ready")),
        *("6 known", Line(ST, _PROTOCOL), Line(LDX_IMM, 40), *_ports(), *_ours_refused(6), "6 ready"),
    ]


def _ports() -> Iterator[Line]:
    """Into memory, from a transport header at X."""
    for at, place in ((0, _SOURCE_PORT), (2, _DESTINATION_PORT)):
        yield from (Line(LDH_IND, at), Line(ST, place))


def _ours_refused(version: _Version) -> Iterator[Line | str]:
    """Resets by our window (packets.py), seen again as they leave: three for each segment that is answered.

    One goes out by the interface, one over loopback and so past every watch twice. The enforcer passes over them, too;
    but they would take the room of segments that nobody has answered yet.
    """
    done = f"{version} not ours"
    yield from (Line(LD_MEM, _PROTOCOL), Line(JEQ, _TCP, otherwise=done))
    yield from (Line(LDH_IND, 14), Line(JEQ, OUR_WINDOW, otherwise=done))
    yield from (Line(LDB_IND, 13), Line(JSET, RST, otherwise=done), Line(RET, 0), done)


def _verdicts(version: _Version, actions: list[Action], guards: Guards) -> Iterator[Line | str]:
    yield from _exempt(guards, version)
    for action in actions:
        if action.family == version:
            yield from _action(action)
    yield Line(RET, 0)


def _exempt(guards: Guards, version: _Version) -> Iterator[Line | str]:
    """What no order reaches (guards.py). Left out here too, because the own upload is the busiest flow of all."""
    for flow in sorted(guards.own):
        address, port = checked_flow(*flow)
        side = Side(ip_network(address), port)
        if ip_network(address).version == version:
            yield from _either_way(f"own {address} {port}", side, Side(), "tcp", 0, decided_by_addresses=False)
    for network in dict.fromkeys(guards.protected):
        if network.version == version:
            yield from _either_way(f"protected {network}", Side(network), Side(), "any", 0)


def _action(action: Action) -> Text:
    return list(_either_way(f"order {action.id}", action.source, action.destination, action.protocol, SEEN_BYTES))


def _either_way(
    name: str, one: Side, other: Side, protocol: str, verdict: int, *, decided_by_addresses: bool = True
) -> Iterator[Line | str]:
    """Ends with the verdict for packets between the two sides; goes on for all others.

    `decided_by_addresses`: where the transport lies behind extension headers, the addresses are enough.
    """
    for way, (source, destination) in (("forth", (one, other)), ("back", (other, one))):
        no, yes = f"{name} {way} no", f"{name} {way} yes"
        networks = [side.network for side in (one, other) if side.network is not None]
        for place, side in ((_SOURCE, source), (_DESTINATION, destination)):
            if side.network is not None:
                yield from _address(place, side.network, no)
        ported = [
            (place, side.port)
            for place, side in ((_SOURCE_PORT, source), (_DESTINATION_PORT, destination))
            if side.port is not None
        ]
        if ported or protocol != "any":
            yield Line(LD_MEM, _PROTOCOL)
            if networks[0].version == 6:
                yield Line(JEQ, _EXTENDED, then=yes if decided_by_addresses else no)
            if protocol != "any":
                yield Line(JEQ, _NUMBERS[protocol], otherwise=no)
        for place, port in ported:
            yield from (Line(LD_MEM, place), Line(JEQ, port, otherwise=no))
        yield from (yes, Line(RET, verdict), no)


def _address(place: int, network: Network, no: str) -> Iterator[Line]:
    """Goes to `no` unless the address at this place of memory lies in the network."""
    wanted, mask = network.network_address.packed, network.netmask.packed
    for start in range(0, len(wanted), 4):
        word_mask = int.from_bytes(mask[start : start + 4])
        if not word_mask:
            return
        yield Line(LD_MEM, place + start // 4)
        if word_mask != 0xFFFFFFFF:
            yield Line(AND, word_mask)
        yield Line(JEQ, int.from_bytes(wanted[start : start + 4]), otherwise=no)
