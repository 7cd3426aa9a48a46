"""The streams' options: what is wrong with them, and what they become."""

from __future__ import annotations

import argparse
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ossensor.errors import ConfigurationError
from ossensor.transport.protocol import sensor_name_ok
from ossensor.vsensor import addresses
from ossensor.vsensor.report import Report

from .books import Books
from .process import Settings, Sockets, run
from .sender import open_lanes
from .vxlan import VNI_MAX


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("streams", "what is stored, told on as it comes; see docs/vsensor.md")
    group.add_argument(
        "--pcap-over-ip",
        metavar="HOST:PORT",
        help="write packets to whoever connects here, without a password: loopback only, unless --pcap-over-ip-anyone",
    )
    group.add_argument(
        "--pcap-over-ip-format",
        choices=("pcapng", "pcap"),
        default="pcapng",
        help="what they are written (default: pcapng)",
    )
    group.add_argument(
        "--pcap-over-ip-anyone",
        action="store_true",
        help="allow an address that others can reach; all of them can then read every packet, and nothing is encrypted",
    )
    group.add_argument(
        "--vxlan", metavar="HOST:PORT", help="send packets here in VXLAN datagrams; the usual port is 4789"
    )
    group.add_argument(
        "--vxlan-vni", default="1", metavar="N", help="the network identifier that they bear (default: 1)"
    )
    group.add_argument(
        "--vxlan-oversize",
        choices=("fragment", "drop"),
        default="fragment",
        help="what does not fit the path's MTU is sent in IP fragments, or dropped and counted (default: fragment)",
    )
    group.add_argument(
        "--stream-sensor",
        action="append",
        default=[],
        metavar="NAME",
        help="stream what this sensor sends, and others so named, and no more (default: all)",
    )


@dataclass(frozen=True, slots=True)
class Streams:
    """What was asked for, resolved, with the port open: the streaming process and its successors share it."""

    settings: Settings
    sockets: Sockets
    serving: socket.socket  # the end of the channel that the serving process writes to
    books: Books

    def run(self, report: Report) -> int:
        return run(self.settings, self.sockets, self.books, report)


def check(args: argparse.Namespace, faults: list[str]) -> Callable[[], Streams | None]:
    """What makes the streams; None is made when none were asked for. Adds what is wrong to `faults`."""
    listen = addresses.parse("--pcap-over-ip", args.pcap_over_ip, faults) if args.pcap_over_ip is not None else None
    if listen is not None and not args.pcap_over_ip_anyone:
        faults += _exposed(listen[0])
    vxlan = addresses.parse("--vxlan", args.vxlan, faults) if args.vxlan is not None else None
    vni = args.vxlan_vni
    if not (vni.isascii() and vni.isdecimal() and len(vni) < 10 and int(vni) <= VNI_MAX):
        faults.append(f"--vxlan-vni: {vni!r} is not a whole number from 0 to {VNI_MAX}")
    if vxlan is not None and vxlan[0] and not vxlan[1]:
        faults.append("--vxlan: port 0 receives nothing")
    faults += [f"--stream-sensor: {n!r} is no sensor's name" for n in args.stream_sensor if not sensor_name_ok(n)]
    if args.stream_sensor and listen is None and vxlan is None:
        faults.append("--stream-sensor: there is no --pcap-over-ip and no --vxlan to stream to")

    def make() -> Streams | None:
        if listen is None and vxlan is None:
            return None
        settings = Settings(
            store=Path(args.store).absolute(),
            sensors=frozenset(args.stream_sensor),
            pcap=args.pcap_over_ip_format == "pcap",
            vxlan=_resolved(vxlan) if vxlan is not None else None,
            vni=int(vni),
        )
        lanes = _lanes(settings.vxlan, fragment=args.vxlan_oversize == "fragment") if settings.vxlan else []
        listener = _listener(listen, anyone=args.pcap_over_ip_anyone) if listen is not None else None
        # SEQPACKET keeps notices apart, in order and whole, and its queue is bounded by SO_SNDBUF: some 270 of them.
        serving, streaming = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        streaming.setblocking(False)
        return Streams(settings, Sockets(streaming, listener, lanes), serving, Books())

    return make


def _listener(address: tuple[str, int], *, anyone: bool) -> socket.socket:
    listener = addresses.listen("--pcap-over-ip", address)
    if not anyone and (fault := _exposed(listener.getsockname()[0])):
        listener.close()
        raise ConfigurationError(fault)
    listener.setblocking(False)
    return listener


def _exposed(host: str) -> list[str]:
    """The fault of an address that others reach; none for a name, which is judged by the address that it stands for."""
    try:
        loopback = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return []
    why = "whoever reaches it could read every packet, without a password and unencrypted"
    fault = f"--pcap-over-ip: {host} is not a loopback address: {why}; --pcap-over-ip-anyone allows it"
    return [] if loopback else [fault]


def _resolved(address: tuple[str, int]) -> tuple[str, int]:
    """The literal address: names are asked for once, so that the packets' way does not depend on whoever answers."""
    host, port = address
    try:
        where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4]
    except OSError as e:  # socket.gaierror is one
        raise ConfigurationError([f"--vxlan: {host}: {e.strerror}"]) from e
    return str(where[0]), port


def _lanes(address: tuple[str, int], *, fragment: bool) -> list[socket.socket]:
    try:
        return open_lanes(address, fragment=fragment)
    except OSError as e:
        raise ConfigurationError([f"--vxlan: {address[0]}: {e.strerror}"]) from e
