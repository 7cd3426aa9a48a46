"""The enforcer that ships, in a process of its own, told what the supervisor would tell it.

    python -m harness.enforce enforce|observe [PROTECTED_NETWORK...]

Each line of its input is an `op` of the channel and the text that comes with it, in JSON; each line of its output is a
report. It opens the sockets with CAP_NET_RAW alone, and says so when it has more; the enforcer has no privilege at all.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from ipaddress import ip_network

from harness import proc

from ossensor.antigena.enforcer import Mode
from ossensor.capture.cooked import open_sockets
from ossensor.confine.policy import Role
from ossensor.control import Channel, Parts
from ossensor.errors import Exit
from ossensor.spawn import Forge, Process
from ossensor.workers.child import Heartbeat, Signals
from ossensor.workers.enforcer import Enforcer, Plan

_NET_RAW = 1 << 13  # linux/capability.h


def started(plan: Plan) -> tuple[Process, Channel]:
    """As Enforcement.start does it."""
    heartbeat, sockets, (ours, theirs) = Heartbeat(), open_sockets(), Channel.pair()

    def work(signals: Signals) -> Exit:
        return Enforcer(plan, theirs, sockets, heartbeat).run(signals)

    keep = (theirs.fileno(), *sockets.descriptors)
    process = Forge(0, 0, "kill").spawn("oss-antigena", Role.ENFORCE, heartbeat, keep, work)
    sockets.close()
    theirs.close()
    return process, ours


def main(mode: Mode, *protected: str) -> None:
    assert int(proc.status(os.getpid())["CapEff"], 16) == _NET_RAW
    logging.basicConfig()
    process, channel = started(Plan(mode, tuple(map(ip_network, protected))))
    reports, typed = Parts(), b""
    while not channel.ended:
        readable = select.select([sys.stdin, channel], [], [])[0]
        if channel in readable:
            for message, _ in channel.receive():
                if (text := reports.maybe_whole(message)) is not None:
                    print(text, flush=True)
        if sys.stdin in readable:
            more = os.read(sys.stdin.fileno(), 1 << 16)  # no readline, which would keep lines from select
            if not more:
                break
            *lines, typed = (typed + more).split(b"\n")
            for line in lines:
                op, text = json.loads(line)
                assert channel.send_text(op, text)
    channel.close()
    proc.eventually("the enforcer's end", lambda: process.exit_code is not None)
    assert process.exit_code == Exit.GAVE_UP


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]
