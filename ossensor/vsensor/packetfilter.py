"""libpcap's filter language on packets that are stored already.

By ctypes on the libpcap that pypcap is linked with, because pypcap's own `bpf` knows no packet but a whole one: what a
snap length cut would count as short as it was kept, and `greater 1000` would miss it. It says "bad filter", too, where
libpcap says what is bad.
"""

from __future__ import annotations

import ctypes
from typing import Final

from ossensor.errors import ConfigurationError

ETHERNET: Final = 1
_SNAPLEN_BYTES: Final = 262_144  # libpcap's MAXIMUM_SNAPLEN
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF  # pcap/pcap.h: PCAP_NETMASK_UNKNOWN
# pcapng numbers link layers as files do; libpcap's calls take DLT_ numbers, which differ for this one (pcap/dlt.h).
_DLT_OF: Final = {101: 12}  # raw IP


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))  # struct bpf_program


class _Head(ctypes.Structure):  # struct pcap_pkthdr, which begins with a struct timeval
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("captured", ctypes.c_uint32),
        ("original", ctypes.c_uint32),
    )


def _libpcap() -> ctypes.CDLL:
    import pcap  # noqa: PLC0415  only who filters needs it

    # Symbols are looked for in what the extension module is linked with, too (dlsym(3)), whatever its file is called.
    library = ctypes.CDLL(pcap.__file__)
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = library.pcap_close.argtypes = (ctypes.c_void_p,)
    library.pcap_compile.argtypes = (
        *(ctypes.c_void_p, ctypes.POINTER(_Program), ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32),
    )
    library.pcap_offline_filter.argtypes = (ctypes.POINTER(_Program), ctypes.POINTER(_Head), ctypes.c_char_p)
    return library


class PacketFilter:
    """An expression, compiled for each link layer that it meets.

    Raises ConfigurationError when it does not compile for one: for Ethernet at once, for another at its first packet.
    """

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._libpcap = _libpcap()
        self._programs: dict[int, _Program] = {}  # for the life of the process: libpcap's memory is not given back
        self._head = _Head()
        self._program(ETHERNET)

    def passes(self, linktype: int, packet: bytes, original_bytes: int) -> bool:
        program = self._programs.get(linktype) or self._program(linktype)
        self._head.captured, self._head.original = len(packet), original_bytes
        return bool(self._libpcap.pcap_offline_filter(ctypes.byref(program), ctypes.byref(self._head), packet))

    def _program(self, linktype: int) -> _Program:
        handle = self._libpcap.pcap_open_dead(_DLT_OF.get(linktype, linktype), _SNAPLEN_BYTES)
        try:
            program = _Program()
            text = self._expression.encode("utf-8", "surrogateescape")
            if self._libpcap.pcap_compile(handle, ctypes.byref(program), text, 1, _NETMASK_UNKNOWN) != 0:
                why = self._libpcap.pcap_geterr(handle).decode("utf-8", "replace")
                layer = "" if linktype == ETHERNET else f" for link layer {linktype}"
                raise ConfigurationError([f"--bpf: {self._expression!r} does not compile{layer}: {why}"])
        finally:
            self._libpcap.pcap_close(handle)
        self._programs[linktype] = program
        return program
