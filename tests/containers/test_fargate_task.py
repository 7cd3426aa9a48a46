"""The image as a sidecar, in a task like Fargate's. Everything is counted; nothing is said to be about right."""

from __future__ import annotations

import re
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fargate import AGENT, CREDENTIAL, OUTSIDE, SIDECAR, TASK, TASK_ID, Task
from harness.captures import Packet
from harness.proc import HANGS_S, children, comm, eventually, filters, status

pytestmark = [pytest.mark.netns, pytest.mark.slow]

STOP_S = 10
_NET_RAW = 1 << 13


def flow(packet: Packet) -> tuple[str, str, int, int]:
    """Source and destination address, protocol and destination port; the port is 0 where there is none."""
    data = packet.data
    if data[12:14] != b"\x08\x00":
        return "", "", 0, 0
    header = 14 + (data[14] & 15) * 4
    protocol = data[23]
    port = struct.unpack_from("!H", data, header + 2)[0] if protocol in (6, 17) else 0
    return str(IPv4Address(data[26:30])), str(IPv4Address(data[30:34])), protocol, port


def burst(packets: list[Packet]) -> list[int]:
    """The numbers of the application's datagrams, in the order in which they are stored."""
    return [int(p.data[-8:]) for p in packets if flow(p)[2:] == (17, 7001) and p.data[-14:-8] == b"burst "]


def books(log: str) -> dict[str, int]:
    """The sensor's last account of eth1."""
    (line,) = re.findall(r"books closed: (.+?) \(balanced\) interface=eth1", log)
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)}


def test_the_applications_traffic_arrives_and_the_agents_does_not(task: Task) -> None:
    task.start_sensor()
    task.wait_for("capturing interface=eth1")
    task.ask_application("burst", "5000")
    credentials = task.ask_application("credentials", "50")
    code, took_s = task.podman.stop(task.sensor, at_most_s=30)
    log = task.podman.says(task.sensor)
    packets = task.stored()
    link_local = [p for p in packets if any(a.startswith("169.254.") for a in flow(p)[:2])]
    upload = [p for p in packets if OUTSIDE in flow(p)[:2] and b"\x20\xfb" in (p.data[34:36], p.data[36:38])]
    print(f"stopped in {took_s:.2f} s, {books(log)}")

    assert CREDENTIAL in credentials
    assert (code, took_s < STOP_S) == (0, True)
    assert burst(packets) == list(range(5000))
    assert (link_local, upload) == ([], [])
    assert books(log)["received"] == books(log)["delivered"] == len(packets)
    assert [path.name for path in task.store.iterdir() if (path / "eth1").is_dir()] == [TASK_ID]
    assert "interface=eth0" not in log
    assert CREDENTIAL.encode() not in b"".join(f.read_bytes() for f in task.store.rglob("*.pcapng"))


def test_a_stop_in_the_middle_of_traffic_delivers_the_tail(task: Task) -> None:
    task.start_sensor()
    task.wait_for("capturing interface=eth1")
    task.ask_application("burst", "20000")
    code, took_s = task.podman.stop(task.sensor, at_most_s=30)  # at once, and the application speaks on
    packets, log = task.stored(), task.podman.says(task.sensor)
    print(f"stopped in {took_s:.2f} s, {books(log)}")

    assert (code, took_s < STOP_S) == (0, True)
    assert burst(packets) == list(range(20000))
    assert books(log)["received"] == books(log)["delivered"] == len(packets)
    assert books(log)["kernel_drops"] == books(log)["in_flight"] == 0


def test_a_flood_stays_within_the_memory_limit_and_is_accounted_for(task: Task) -> None:
    limit_bytes = SIDECAR["memory"] << 20
    task.start_sensor()
    task.wait_for("capturing interface=eth1")
    task.ask_application("burst", "1000000")
    most = task.memory().most_bytes
    code, _ = task.podman.stop(task.sensor, at_most_s=30)
    counts = books(task.podman.says(task.sensor))
    stored = burst(task.stored())
    print(f"{most / limit_bytes:.0%} of {limit_bytes >> 20} MiB, {counts}")

    assert (code, task.podman.inspect(task.sensor)["State"]["OOMKilled"]) == (0, False)
    assert most <= 0.85 * limit_bytes
    assert stored == sorted(set(stored))
    assert counts["received"] == counts["kernel_drops"] + counts["delivered"]


def test_an_operators_order_ends_the_applications_connection_and_nothing_else(task: Task) -> None:
    task.start_sensor()
    task.wait_for("capturing interface=eth1")
    before = task.application_state()
    with ThreadPoolExecutor(max_workers=1) as pool:
        seen = pool.submit(task.ask_application, "from", "40001")
        eventually("the application speaks", lambda: "40001" in task.peer_saw())
        ends = ("--src", f"{TASK}:40001", "--dst", f"{OUTSIDE}:7000", "--protocol", "tcp")
        task.order("block", *ends, "--duration", "600", "--reason", "a test", "--id", "one", "--sensor", TASK_ID)
        ordered_s = time.monotonic()
        assert seen.result(timeout=HANGS_S) == "ECONNRESET"
        took_s = time.monotonic() - ordered_s
    eventually("its peer sees it", lambda: "40001 ECONNRESET" in task.peer_saw())
    print(f"the application's connection ended {took_s:.2f} s after the order")

    def told() -> dict[str, int]:
        (order,) = task.order("list")["orders"]
        return dict(order["sensors"].get(TASK_ID, {}).get("counts", {}))

    counts = eventually("it is reported closed", lambda: told() if told().get("closed") else None)
    turns = task.turns()
    eventually("200 further turns", lambda: task.turns() >= turns + 200)  # over the connection that it began with
    assert (counts["matched"], counts["closed"]) == (1, 1)
    assert [line for line in task.peer_saw() if "ECONNRESET" in line] == ["40001 ECONNRESET"]
    assert task.application_state() == before


def test_the_health_check_answers_whether_the_vsensor_is_there_or_not(task: Task) -> None:
    check = SIDECAR["healthCheck"]["command"]
    task.start_sensor()
    task.wait_for("capturing interface=eth1")
    # A check that ended with anything but 0 would fail in here.
    eventually("healthy", lambda: task.podman("exec", task.sensor, *check[1:]) == "healthy")
    task.stop_vsensor()
    eventually("degraded", lambda: task.podman("exec", task.sensor, *check[1:]).startswith("degraded: the vSensor"))

    assert check[0] == "CMD"


def test_killing_the_sensor_is_nothing_to_the_application(task: Task) -> None:
    task.start_sensor()
    task.wait_for("capturing interface=eth1")
    before, turns = task.application_state(), task.turns()
    task.podman("kill", "--signal", "KILL", task.sensor)
    task.podman("wait", task.sensor)

    # Over the same connection, since it ends at its first fault.
    eventually("200 further turns", lambda: task.turns() >= turns + 200)
    assert task.application_state() == before
    assert (before["Status"], task.podman.inspect(task.sensor)["State"]["ExitCode"]) == ("running", 137)


@pytest.mark.parametrize(
    "wrong,code,reason",
    [
        ({"NETWORK_DEVICE_EXCLUDELIST": "*eth"}, 78, "NETWORK_DEVICE_EXCLUDELIST"),
        ({"VSENSOR_HMAC_KEY": "another key, of sixteen bytes and more"}, None, OUTSIDE),
        ({"VSENSOR_PORT": "9"}, None, f"{OUTSIDE}"),
    ],
    ids=["a wrong pattern", "a wrong key", "no vSensor"],
)
def test_a_sensor_that_cannot_work_says_so_and_the_application_goes_on(
    wrong: dict[str, str], code: int | None, reason: str, task: Task
) -> None:
    before, turns = task.application_state(), task.turns()
    task.start_sensor(**wrong)
    if code is None:
        warning, status = rf"WARNING .*{re.escape(reason)}", ("exec", task.sensor, "ossensor", "status")
        eventually("a warning", lambda: re.search(warning, task.podman.says(task.sensor)))
        eventually("the same in `status`", lambda: reason in task.podman(*status))  # how soon: test_status_live.py
        assert task.podman.inspect(task.sensor)["State"]["Status"] == "running"
    else:
        task.podman("wait", task.sensor)
        assert task.podman.inspect(task.sensor)["State"]["ExitCode"] == code
        assert task.podman.says(task.sensor).startswith(f"ossensor: {reason}")

    eventually("200 further turns", lambda: task.turns() >= turns + 200)
    assert task.application_state() == before


def test_it_runs_with_net_raw_alone_on_a_root_that_it_cannot_write(task: Task) -> None:
    task.start_sensor()
    task.wait_for("uploader ready")
    task.wait_for("capturing interface=eth1")
    pid = int(task.podman.inspect(task.sensor)["State"]["Pid"])
    fields = status(pid)
    (root,) = (
        line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines() if line.split()[4] == "/"
    )

    assert {name: int(fields[name], 16) for name in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")} == {
        **dict.fromkeys(("CapBnd", "CapPrm", "CapEff"), _NET_RAW),
        **dict.fromkeys(("CapInh", "CapAmb"), 0),
    }
    assert fields["NoNewPrivs"] == "1"
    assert fields["NSpid"].split()[-1] == "1"  # PID 1 of its container
    assert root[5].split(",")[0] == "ro"
    # The container has one, and each child one of its own besides.
    (of_container,) = filters(pid)
    assert {comm(child): filters(child) for child in children(pid)} == {
        name: {of_container + 1} for name in ("oss-upload", "oss-cap-eth1")
    }
    assert AGENT not in task.podman.says(task.sensor)
