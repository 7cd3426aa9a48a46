"""Kernel filters and statistics of a packet socket: what pypcap does not offer, by socket options.

libpcap compiles, on a live handle, so that `vlan` looks at the tag where Linux keeps it (beside the packet, not in it);
the program is read back from that handle's socket and attached to the capture socket in one step. Letting libpcap
install it there would put a reject-all filter in between: packets of that moment are lost and counted nowhere.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from errno import ENODEV, EPROTOTYPE
from typing import Final, NamedTuple

import pcap

from ossensor.errors import ConfigurationError

from .hardware import hardware_type, linktype_of_dlt, maybe_linktype

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; SO_GET_FILTER is the same number, read
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6  # linux/if_packet.h
_PACKET_IGNORE_OUTGOING: Final = 23
_INSTRUCTION = struct.Struct("HBBI")  # struct sock_filter
_ADDRESS = struct.Struct("=HHiHBB8s")  # struct sockaddr_ll
_MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS

_RETURN: Final = 0x06
REJECT_ALL: Final = _INSTRUCTION.pack(_RETURN, 0, 0, 0)

# libpcap's MAXIMUM_SNAPLEN; also what a GRO super-frame needs. 65535, pypcap's default, cuts them.
SNAPLEN_BYTES: Final = 262_144

# A handle for compiling only: it captures nothing that anyone reads, so its ring is as small as libpcap makes one.
_COMPILE_RING_BYTES: Final = 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))  # struct sock_fprog


class Statistics(NamedTuple):
    """The kernel's counts since they were last read; `received` includes `dropped`."""

    received: int
    dropped: int


def set_option(sock: socket.socket, level: int, option: int, value: bytes) -> None:
    """setsockopt(2), as socket.setsockopt, but without holding up other threads: that one keeps the interpreter's lock.

    For options that make the kernel wait.
    """
    if _libc.setsockopt(sock.fileno(), level, option, value, len(value)) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def attach(sock: socket.socket, program: bytes) -> None:
    """Replaces the socket's filter atomically (the kernel swaps one pointer under RCU). Needs no privilege."""
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = _Program(len(program) // _INSTRUCTION.size, ctypes.addressof(instructions))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(fprog))


def attached(sock: socket.socket) -> bytes:
    """The socket's classic filter program; empty when it has none.

    Not socket.getsockopt: the kernel counts this option's length in instructions and writes eight bytes for each.
    """
    buffer = ctypes.create_string_buffer(_MAX_INSTRUCTIONS * _INSTRUCTION.size)
    count = ctypes.c_uint(_MAX_INSTRUCTIONS)
    if _libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_ATTACH_FILTER, buffer, ctypes.byref(count)) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return buffer.raw[: count.value * _INSTRUCTION.size]


def statistics(sock: socket.socket) -> Statistics:
    """Reads *and resets* the kernel's counters, so they have one owner: the supervisor."""
    data = sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12)  # struct tpacket_stats_v3
    received, dropped = struct.unpack_from("II", data)
    return Statistics(received, dropped)


def ignore_outgoing(sock: socket.socket) -> None:
    """For loopback, where each packet crosses twice; libpcap would skip one of the two, but the kernel counts both."""
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)


def bound_index(sock: socket.socket) -> int | None:
    """The index of the interface that a packet socket is bound to; None when that is gone, or its name is not UTF-8."""
    try:
        return socket.if_nametoindex(sock.getsockname()[0])
    except (OSError, UnicodeDecodeError):
        return None


def unbound(sock: socket.socket) -> bool:
    """True for a packet socket whose interface is gone, also if one of the same index is there by now.

    An index stays free for who asks for it, and for the interface itself, which takes it along to another network
    namespace and back. The kernel binds the socket to neither (net/packet/af_packet.c, packet_notifier).
    """
    address, size = ctypes.create_string_buffer(_ADDRESS.size), ctypes.c_uint(_ADDRESS.size)
    if _libc.getsockname(sock.fileno(), address, ctypes.byref(size)) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return int(_ADDRESS.unpack(address.raw)[2]) < 0


def compile_on(interface: str, expression: str, snaplen: int = SNAPLEN_BYTES) -> bytes:
    """The program that libpcap makes of `expression` on this interface, keeping `snaplen` bytes of what passes.

    Raises ConfigurationError when it does not compile there or is too long for the kernel, and OSError when the
    interface cannot be opened.
    """
    if not expression:
        return _INSTRUCTION.pack(_RETURN, 0, 0, snaplen)
    # The snap length is compiled in: an accepting program returns how many bytes of the packet to keep.
    handle = pcap.pcap(name=interface, promisc=False, snaplen=snaplen, timeout_ms=1000, buffer_size=_COMPILE_RING_BYTES)
    try:
        with socket.socket(fileno=os.dup(handle.fileno())) as sock:
            # To libpcap, "any" is no interface, and has other offsets: on one that is called so, the program would let
            # through what it is there to refuse.
            if bound_index(sock) != socket.if_nametoindex(interface):
                raise OSError(ENODEV, "by its name libpcap opens something else")
            # It knows Ethernet that is none: a switch's port to the processor, where each frame has the switch's tag
            # (DSA), and by their name alone "isdn0" and the like. Programs are kept by hardware type, for the others.
            if maybe_linktype(hardware_type(interface)) not in {None, linktype_of_dlt(int(handle.datalink()))}:
                raise OSError(EPROTOTYPE, "libpcap takes its frames for others than its hardware type says")
            try:
                handle.setfilter(expression)
            except OSError as e:
                raise ConfigurationError([f"BPF: does not compile on {interface}: {_reason(e)}: {expression}"]) from e
            program = attached(sock)
    finally:
        handle.close()
    if not program:
        # libpcap falls back to filtering in this process when the kernel refuses a program (too long, mostly).
        raise ConfigurationError([f"BPF: too long for the kernel ({_MAX_INSTRUCTIONS} instructions) on {interface}"])
    return program


def _reason(error: OSError) -> str:
    text = error.args[0] if error.args else ""
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
