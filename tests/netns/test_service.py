"""The sensor as systemd runs it: what it tells the manager, and that it lives inside what its unit allows.

systemd itself is not here; its part is played by the harness. What the unit forbids is laid on by the same means that
systemd uses: an ambient capability and an empty rest for setpriv, PR_SET_MDWE, and, for the filter of system calls,
a list of those that the sensor makes, held against systemd's own tables.
"""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
from harness import proc
from harness.manager import WATCHDOG_S, manager
from harness.namespaces import in_user_namespace
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

UNIT = (Path(__file__).parents[2] / "deploy/systemd/ossensor.service").read_text()
# User, capabilities and no_new_privs of the unit; any user will do, as with DynamicUser.
AS_IN_THE_UNIT = (
    *("setpriv", "--reuid", "61234", "--regid", "61234", "--clear-groups", "--no-new-privs"),
    *("--bounding-set", "-all,+net_raw", "--inh-caps", "-all,+net_raw", "--ambient-caps", "-all,+net_raw"),
)
# MemoryDenyWriteExecute=, where the kernel does it by itself (Linux 6.3): prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN).
NO_NEW_CODE = (
    *("/usr/bin/python3", "-c"),
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])",
)


def test_a_manager_is_told_of_start_reload_state_and_stop(world: World, open_folder: Path) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    world.config.write_text("BPF=tcp\n")
    with manager(open_folder) as systemd:
        sensor = world.start_sensor(changes=systemd.environment)
        systemd.wait_for("READY=1")
        assert sensor.records("capturing", interface="cap0") or sensor.wait_for("capturing", interface="cap0")
        systemd.wait_for("STATUS=running, 1 interfaces; healthy")
        sensor.signal(signal.SIGHUP)
        proc.eventually("the reload is over", lambda: systemd.heard().count("READY=1") == 2)
        assert sensor.terminate()[0] == 0

        said = [line.partition("=")[0] for line in systemd.heard() if not line.startswith(("STATUS", "WATCHDOG", "FD"))]
        assert said == ["READY", "RELOADING", "MONOTONIC_USEC", "READY", "STOPPING"]
        assert systemd.heard().count("WATCHDOG=1") >= 1


def test_a_stopped_supervisor_feeds_no_watchdog(world: World, open_folder: Path) -> None:
    world.add_link("cap0")
    with manager(open_folder) as systemd:
        sensor = world.start_sensor("cap0", changes=systemd.environment)
        proc.eventually("two meals", lambda: systemd.heard().count("WATCHDOG=1") >= 2)
        sensor.signal(signal.SIGSTOP)
        proc.eventually("it is stopped", lambda: proc.status(sensor.pid)["State"].startswith("T"))
        before = systemd.heard()

        assert not proc.happened(lambda: systemd.heard() != before, WATCHDOG_S / 2)
        sensor.signal(signal.SIGCONT)
        proc.eventually("another", lambda: systemd.heard().count("WATCHDOG=1") > before.count("WATCHDOG=1"))


def test_a_refusal_is_the_last_word_to_the_manager(world: World, open_folder: Path) -> None:
    with manager(open_folder) as systemd:
        sensor = world.start_sensor(changes={**systemd.environment, "NETWORK_DEVICE_INCLUDELIST": "eth["})

        assert sensor.wait() == 78
        (line,) = systemd.heard()
        assert line.startswith("STATUS=refused to start: NETWORK_DEVICE_INCLUDELIST: got 'eth[': ")


def _allowed() -> set[str]:
    """The names that the unit's filters leave."""

    def members(name: str) -> set[str]:
        if not name.startswith("@"):
            return {name}
        said = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
        lines = [line.strip() for line in said.stdout.splitlines()[1:]]
        return {one for line in lines if line and not line.startswith("#") for one in members(line)}

    # systemd.exec(5): what is listed implicitly, so that a service can start at all.
    allowed = members("@default") | {"execve"}
    for rule in re.findall("^SystemCallFilter=(.*)$", UNIT, flags=re.MULTILINE):
        sign, names = (set.difference, rule[1:]) if rule.startswith("~") else (set.union, rule)
        for name in names.split():
            allowed = sign(allowed, members(name))
    return allowed


@pytest.mark.skipif(in_user_namespace(), reason="a user namespace has no other user to run as")
def test_it_lives_a_whole_life_inside_what_its_unit_allows(world: World, open_folder: Path) -> None:
    spool = open_folder / "state"
    spool.mkdir()
    spool.chmod(0o777)
    trace = open_folder / "trace"
    world.add_link("cap0", "cap1")
    tracing = ("strace", "-f", "-qq", "-o", str(trace), "-e", "signal=none")
    with manager(open_folder) as systemd:
        changes = {
            **systemd.environment,
            "OSSENSOR_SPOOL_DIR": str(spool),
            "OSSENSOR_METRICS_ADDRESS": "127.0.0.1:9464",
            "OSSENSOR_CONFIG_PATH": str(open_folder / "ossensor.cfg"),
        }
        sensor = world.start_sensor("cap0", "cap1", changes=changes, under=(*tracing, *AS_IN_THE_UNIT, *NO_NEW_CODE))
        world.send("cap0", 500)  # nobody is there yet: an outage, and its end
        world.start_vsensor()
        world.send("cap1", 500)
        proc.eventually("all is stored", lambda: world.holds("cap0", 500) and world.holds("cap1", 500))
        world.remove_link("cap1")
        sensor.wait_for("interface no longer captured: deleted", interface="cap1")
        # A child is called so, too, until it has told its own name.
        supervisor = next(pid for pid in proc.tree(sensor.pid) if proc.comm(pid) == "ossensor-sup")
        capabilities = {name: proc.status(supervisor)[name] for name in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")}
        subprocess.run(["kill", "-HUP", str(supervisor)], check=True)
        sensor.wait_for("settings read again")
        subprocess.run(["kill", "-TERM", str(supervisor)], check=True)
        assert sensor.wait() == 0
    made = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), flags=re.MULTILINE))
    opened = set(re.findall(r"^\d+ +socket(?:pair)?\((AF_\w+)", trace.read_text(), flags=re.MULTILINE))
    (families,) = re.findall("^RestrictAddressFamilies=(.*)$", UNIT, flags=re.MULTILINE)

    net_raw = "0000000000002000"
    assert capabilities == {"CapEff": net_raw, "CapPrm": net_raw, "CapBnd": net_raw, "NoNewPrivs": "1"}
    assert {"socket", "setsockopt", "clone", "capset", "memfd_create", "execve"} <= made | {"clone3"}
    # What setpriv and the test's own wrapper do before the sensor is the manager's business, not the filter's.
    managers = {"setresuid", "setresgid", "setgroups", "setuid", "setgid"}
    assert made - _allowed() - managers == set()
    assert opened | {"AF_INET6"} == set(families.split())  # the namespaces have no IPv6
