"""The effective filter of this moment, compiled: the supervisor's one place to ask what may pass.

Invariant: a change (other addresses, another user filter) is taken whole or not at all: it is compiled for every
hardware type in use before anything is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ossensor import filters
from ossensor.filters import Flow

from . import bpf
from .hardware import ethernet_framed, hardware_type


class FilterBank:
    """Programs by hardware type, for one user filter and one set of the sensor's own flows.

    `snaplen` gives the bytes to keep of packets of a hardware type; it may refuse one with ConfigurationError.
    """

    def __init__(
        self,
        user: str,
        *,
        credential_endpoints: bool,
        flows: Iterable[Flow] = (),
        snaplen: Callable[[int], int] = lambda _: bpf.SNAPLEN_BYTES,
    ) -> None:
        self.user = user
        self.flows = frozenset(flows)
        self._credential_endpoints = credential_endpoints
        self._snaplen = snaplen
        self._programs: dict[int, bytes] = {}

    def program(self, interface: str) -> bytes:
        """The program for this interface. Raises what bpf.compile_on raises."""
        kind = hardware_type(interface)
        if kind not in self._programs:
            expression = filters.effective(
                self.user,
                self.flows,
                credential_endpoints=self._credential_endpoints,
                ethernet=ethernet_framed(kind),
            )
            self._programs[kind] = bpf.compile_on(interface, expression, self._snaplen(kind))
        return self._programs[kind]

    def with_flows(self, flows: Iterable[Flow]) -> FilterBank:
        """A bank that leaves out these flows in place of the present ones."""
        return FilterBank(
            self.user, credential_endpoints=self._credential_endpoints, flows=flows, snaplen=self._snaplen
        )

    def with_user(self, user: str, *, credential_endpoints: bool) -> FilterBank:
        """A bank for another user filter."""
        return FilterBank(user, credential_endpoints=credential_endpoints, flows=self.flows, snaplen=self._snaplen)
