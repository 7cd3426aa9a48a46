"""The filter in front of every captured interface, kept equal to what it should be at this moment.

Invariant: a socket carries the effective filter of the present bank, or it is shut; never that of an earlier bank. So
neither an address that was guarded, nor what the user excluded a moment ago, passes anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any

from . import filters
from .capture.filterbank import FilterBank
from .children import State
from .complaints import Complaints
from .errors import ConfigurationError
from .filters import Flow
from .legacy import FlowKeeper
from .logs import fields
from .port import Port
from .settings import bpf_fault
from .transport.protocol import packet_filter_ok

log = logging.getLogger(__name__)


class Gate:
    """The present bank, and how ports come to it. Ports that drain are shut for good and left alone."""

    def __init__(self, bank: FilterBank, keeper: FlowKeeper) -> None:
        self.bank = bank
        self._keeper = keeper
        self._complaints = Complaints(log)

    def program(self, interface: str) -> bytes:
        """Of the present bank: ports outlive banks. Raises ConfigurationError and OSError."""
        return self.bank.program(interface)

    def use(self, bank: FilterBank, ports: Iterable[Port]) -> None:
        """Puts another bank's filter on every port: compiled for all before one is changed.

        Raises ConfigurationError, with nothing changed, when it does not compile.
        """
        programs: list[tuple[Port, bytes | None]] = []
        ports = list(ports)
        for port in ports:
            if port.capturing and port.child.state is not State.DRAINING:
                try:
                    programs.append((port, bank.program(port.interface.name)))
                except OSError as e:
                    self._complaints.say(f"{port.label} is shut until its filter can be compiled", why=e)
                    programs.append((port, None))
        self.bank = bank
        for port, program in programs:
            try:
                port.refilter(program)
            except OSError as e:  # ENOMEM: net.core.optmem_max; a filter of one instruction fits where none else does
                self._complaints.say(f"{port.label} is shut until its filter fits", why=e)
                with suppress(OSError):
                    port.refilter(None)
        for port in ports:
            port.describe_filter(bank.described)

    def reopen(self, port: Port) -> None:
        """Tries again where a filter could not be compiled (the interface was down, or renamed at that moment)."""
        if port.shut and port.capturing and port.child.state is not State.DRAINING:
            with suppress(OSError, ConfigurationError):
                port.refilter(self.program(port.interface.name))
                log.info("open again", extra=fields(interface=port.label))

    def narrow(self, wanted: Any, ports: Iterable[Port]) -> str:
        """Puts the vSensor's filter before the user's. One that cannot be leaves the present one in force.

        Returns why it cannot be; empty when it is in force.
        """
        if wanted == self.bank.vsensor:
            return ""
        fault = bpf_fault(wanted) if packet_filter_ok(wanted) else "it is no text that a filter can be"
        if fault is None:
            try:
                self.use(self.bank.with_vsensor(wanted), ports)
            except ConfigurationError as e:
                fault = e.faults[0]
        if fault is None:
            log.info("the vSensor's packet filter is in force", extra=fields(packet_filter=wanted or "none"))
        else:
            self._complaints.say("the vSensor's packet filter cannot be; the one before it stays", why=fault)
        return fault or ""

    def guard(self, wanted: Any, ports: Iterable[Port]) -> bool:
        """Leaves the uploader's addresses out of every capture. False when that cannot be: it must not connect."""
        try:
            flows = {filters.checked_flow(str(address), port) for address, port in wanted}
        except (ValueError, TypeError):
            log.error("the uploader named an impossible address")  # noqa: TRY400  theirs, no traceback
            return False
        if len(flows) > filters.MAX_FLOWS:
            return False
        # The kernel may still be sending for a dead uploader: its addresses stay out as long as there is room.
        before = set(islice(self.bank.flows - flows, filters.MAX_FLOWS - len(flows)))
        try:
            try:
                self._leave_out(flows | before, ports := list(ports))
            except ConfigurationError:
                self._leave_out(flows, ports)  # the program was too long: that room has an end, too
        except ConfigurationError as e:
            self._complaints.say("the sensor's own upload cannot be excluded", why="; ".join(e.faults))
            return False
        return True

    def _leave_out(self, flows: set[Flow], ports: Iterable[Port]) -> None:
        """Raises ConfigurationError, with nothing changed."""
        if flows != self.bank.flows:
            self.use(self.bank.with_flows(flows), ports)
            self._keeper.keep(flows)
