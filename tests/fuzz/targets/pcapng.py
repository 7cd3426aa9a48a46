"""Blocks of any pcapng bytes, as `extract`, the streams and `audit --deep` read them (pcapng.py, picking.py, live.py).

Declared: FormatError. Second oracles: blocks written again are the same bytes; an interface that was renamed has the
new name and its other options; what a stream makes of a section is a file by the same reader, with as many packets as
it says; of a Pcap stream, by scapy's.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress

from scapy.utils import RawPcapReader

from ossensor import pcapng
from ossensor.vsensor.streams import live

from . import section


def seeds() -> Iterator[bytes]:
    yield from section.seeds()
    one, *_ = section.seeds()
    yield one + section.made([(5, b"abcde")], linktype=276, interface="é" * 7, capture_filter="")


def target(data: bytes) -> bool:
    try:
        blocks = [(kind, bytes(body)) for kind, body in pcapng.blocks(data)]
    except pcapng.FormatError:
        return False
    assert b"".join(pcapng.block(kind, body) for kind, body in blocks) == data
    for kind, body in blocks:
        with suppress(pcapng.FormatError):
            if kind == pcapng.ISB:
                pcapng.statistics_of(body)
            elif kind == pcapng.IDB and len(body) >= 8:
                others = [option for option in pcapng.options(body, 8) if option[0] != 2]
                assert list(pcapng.options(pcapng.renamed(body, "s/eth0"), 8)) == [(2, b"s/eth0"), *others]
    with suppress(pcapng.FormatError):
        assert sum(kind == pcapng.EPB for kind, _ in blocks) == len(list(pcapng.packets(data)))
    _streams(data)
    return True


def _streams(data: bytes) -> None:
    stream = live.Pcapng("test")
    prologue = stream.prologue()
    with suppress(pcapng.FormatError):
        piece = stream.take("sensor-1", data)
        written = list(pcapng.blocks(prologue + piece.data))
        assert sum(kind == pcapng.EPB for kind, _ in written) == piece.packets
        # Who comes later reads from the prologue of that moment on.
        described = [body for kind, body in written if kind == pcapng.IDB]
        assert [body for kind, body in pcapng.blocks(stream.prologue()) if kind == pcapng.IDB] == described
    older = live.Pcap()
    with suppress(pcapng.FormatError):
        piece = older.take("sensor-1", data)
        assert len(list(RawPcapReader(io.BytesIO(older.prologue() + piece.data)))) == piece.packets
