"""The effective filter of this moment, compiled: the supervisor's one place to ask what may pass.

Invariant: a change (other addresses, another user filter) is taken whole or not at all: it is compiled for every
hardware type in use before anything is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ossensor import filters
from ossensor.errors import ConfigurationError
from ossensor.filters import Flow

from . import bpf
from .hardware import ethernet_framed, hardware_type


class FilterBank:
    """Programs by hardware type, for one user filter and one set of the sensor's own flows.

    `vsensor` is what the vSensor asks for, and was compiled alone; it narrows what the user's filter lets in.
    `snaplen` gives the bytes to keep of packets of a hardware type; it may refuse one with ConfigurationError. So does
    the constructor a vSensor's filter that would change what the user's means.
    """

    def __init__(
        self,
        user: str,
        *,
        credential_endpoints: bool,
        flows: Iterable[Flow] = (),
        vsensor: str = "",
        snaplen: Callable[[int], int] = lambda _: bpf.SNAPLEN_BYTES,
    ) -> None:
        if user.strip() and filters.shifts(vsensor):
            raise ConfigurationError(["BPF: the vSensor's filter has a word that shifts what the user's refers to"])
        self.user = user
        self.vsensor = vsensor
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
                vsensor=self.vsensor,
            )
            self._programs[kind] = bpf.compile_on(interface, expression, self._snaplen(kind))
        return self._programs[kind]

    def with_flows(self, flows: Iterable[Flow]) -> FilterBank:
        """A bank that leaves out these flows in place of the present ones."""
        return self._with(flows=flows)

    def with_user(self, user: str, *, credential_endpoints: bool) -> FilterBank:
        """A bank for another user filter."""
        return self._with(user=user, credential_endpoints=credential_endpoints)

    def with_vsensor(self, vsensor: str) -> FilterBank:
        """A bank for another filter of the vSensor's."""
        return self._with(vsensor=vsensor)

    def _with(self, **changes: Any) -> FilterBank:
        same: dict[str, Any] = {
            "user": self.user,
            "credential_endpoints": self._credential_endpoints,
            "flows": self.flows,
            "vsensor": self.vsensor,
            "snaplen": self._snaplen,
        }
        return FilterBank(**{**same, **changes})

    @property
    def described(self) -> str:
        """What sections name as their filter: the vSensor's and the user's, without the guards."""
        return filters.described(self.user, self.vsensor)
