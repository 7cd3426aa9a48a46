"""Network namespaces without names: each lives as long as one sleeping process, its holder.

`ip netns` would need a writable /run and leaves names behind when a test run is killed; a holder dies with the test
run (its parent-death signal), and the kernel takes the namespace, its interfaces and its mounts away with it.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from harness.proc import HANGS_S, eventually

# Silence: with IPv6 off and no address an interface sends nothing of its own. The namespace has its own /sys, or
# programs would read about the machine's interfaces there; in a user namespace that mount may be refused.
_HOLDER = """
set -e
mount -t sysfs none /sys 2>/dev/null || true
for scope in all default; do
  echo {ipv6_off} > /proc/sys/net/ipv6/conf/$scope/disable_ipv6
  echo 0 > /proc/sys/net/ipv6/conf/$scope/accept_dad
  echo 0 > /proc/sys/net/ipv6/conf/$scope/router_solicitations
done
ip link set lo up
echo ready
exec sleep infinity
"""


@functools.cache
def why_not() -> str | None:
    """Why no namespace can be made here; None when they can. The one place that decides, once per run."""
    if os.geteuid() != 0:
        return "network namespaces need root: run as root, or under `unshare -rnm`"
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return None if probe.returncode == 0 else f"no network namespace can be made: {probe.stderr.strip()}"


def in_user_namespace() -> bool:
    """True when root is root of a user namespace only: then no other user id exists to change to."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


class Namespace:
    """One network namespace with its own mounts, from construction to `close`."""

    def __init__(self, *, ipv6: bool = False) -> None:
        script = _HOLDER.format(ipv6_off=int(not ipv6))
        unshare = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script]
        self._holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *unshare], stdout=subprocess.PIPE, text=True)
        self.pid = self._holder.pid  # setpriv, unshare, sh and sleep replace each other in one process
        assert self._holder.stdout is not None
        with self._holder.stdout as stdout:
            assert stdout.readline() == "ready\n", "the namespace's holder did not start"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()

    def inside(self, *argv: str | Path) -> list[str]:
        """The argument list that runs `argv` inside; nsenter replaces itself, so the pid is the command's own."""
        enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self.pid}/ns/mnt", "--"]
        return [*enter, *map(str, argv)]

    def run(self, *argv: str | Path, env: Mapping[str, str] | None = None, timeout_s: float = HANGS_S) -> str:
        """The command's standard output. Fails with both outputs unless it ends with 0."""
        done = subprocess.run(
            self.inside(*argv), capture_output=True, text=True, env=env, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def links(self) -> dict[str, dict[str, Any]]:
        """Every interface by name, as `ip -json` describes it."""
        return {link["ifname"]: link for link in json.loads(self.run("ip", "-json", "-statistics", "link", "show"))}

    def replace(self, target: Path, content: Path) -> None:
        """Makes `content` appear as `target` inside: later writes to `content` are seen there."""
        self.run("mount", "--bind", content, target)

    def listens(self, port: int) -> bool:
        """True when a TCP socket inside listens on the port, at any address."""
        lines = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]
        ]
        # local address:port in hex, remote, state; 0A is TCP_LISTEN (include/net/tcp_states.h).
        return any(fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port for fields in lines)


def wire(left: Namespace, left_name: str, right: Namespace, right_name: str, *, mtu: int = 1500) -> None:
    """Connects two namespaces by a veth pair that carries frames unchanged, and returns once it carries them."""
    peer = ["peer", "name", right_name, "mtu", str(mtu), "netns", str(right.pid)]
    make = ["ip", "link", "add", left_name, "mtu", str(mtu), "netns", str(left.pid), "type", "veth", *peer]
    subprocess.run(make, check=True)
    ends = ((left, left_name), (right, right_name))
    for namespace, name in ends:
        # Without these the kernel may merge what was sent apart, or leave a checksum to hardware that is not there.
        namespace.run("ethtool", "-K", name, "tx", "off", "gso", "off", "tso", "off", "gro", "off")
        namespace.run("ip", "link", "set", name, "up")
    for namespace, name in ends:
        # Between "up" and this state the queue is the no-op one, which eats frames silently (net/sched/sch_generic.c).
        eventually(f"{name} up", functools.partial(_is_up, namespace, name))


def _is_up(namespace: Namespace, name: str) -> bool:
    return bool(namespace.links()[name]["operstate"] == "UP")


def silence(namespace: Namespace, *names: str) -> None:
    """Leaves interfaces without ARP, the last thing that an interface without addresses could answer."""
    for name in names:
        namespace.run("ip", "link", "set", name, "arp", "off")


def address(namespace: Namespace, name: str, *addresses: str) -> None:
    """Gives an interface addresses, usable at once: no duplicate address detection."""
    for one in addresses:
        namespace.run("ip", "address", "add", one, "dev", name, *(["nodad"] if ":" in one else []))
