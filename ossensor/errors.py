"""Exit codes, and the two families of errors.

*Ours* is a bug: it is never caught on the way up, the process ends with a traceback and code 70, and the supervisor
starts a successor. *Theirs* is what the world does to us (a packet, a peer, a disk, a setting): it is named, counted,
reported at a bounded rate, and work goes on. Only the second family has classes; the first is whatever Python raises.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a process of ours tells its parent by ending. systemd units and task definitions rely on these numbers."""

    DRAINED = 0
    INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a bug of ours; restarted
    GAVE_UP = 75  # EX_TEMPFAIL: a crash loop that back-off did not cure
    PRIVILEGE = 77  # EX_NOPERM: CAP_NET_RAW is missing; restarting cannot help
    CONFIGURATION = 78  # EX_CONFIG: restarting cannot help


class TheirsError(Exception):
    """Something outside this program went wrong. Abstract: raise the subclass that says what the caller may do."""


class ConfigurationError(TheirsError):
    """Settings that cannot work. Carries every fault found, one line each, so that one run shows them all."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class PrivilegeError(TheirsError):
    """The kernel refused what CAP_NET_RAW would have allowed."""


class InterfaceGoneError(TheirsError):
    """The interface was deleted, or its socket is bound to one that was."""
