"""A sensor that captures the interface it uploads through: forwarding its own upload would grow without bound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import frames, proc
from harness.captures import tshark
from harness.world import PORT, UPLINK, World

pytestmark = [pytest.mark.netns, pytest.mark.slow]


_COUNT_UPLOADS = f"""
table inet seen {{
  chain in {{
    type filter hook input priority 0
    ip daddr 10.9.0.2 tcp dport {PORT} counter
    ip daddr 10.9.0.3 tcp dport {PORT} counter
    ip6 daddr fd00:9::2 tcp dport {PORT} counter
  }}
}}
"""
_COUNTER = re.compile(r"daddr (\S+) tcp dport \d+ counter packets (\d+)")


def _hosts(address: str) -> str:
    return f"127.0.0.1 localhost\n{address} vsensor.test\n"


@pytest.mark.parametrize("moved_to", ["10.9.0.3", "fd00:9::2"])
def test_its_own_upload_is_never_captured_also_after_the_vsensor_moved_while_other_traffic_is(
    moved_to: str, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(_hosts("10.9.0.2"))
    changes = {
        "VSENSOR_HOSTNAME": "vsensor.test",
        "OSSENSOR_NETWORK_DEVICE": UPLINK,
        "NETWORK_DEVICE_INCLUDELIST": None,
    }
    with World(tmp_path, certificate, ipv6=True) as world:
        world.sensor.replace(Path("/etc/hosts"), hosts)
        world.collector.run("nft", _COUNT_UPLOADS)
        old = world.start_vsensor("10.9.0.2")
        sensor = world.start_sensor(UPLINK, changes=changes)
        world.send(UPLINK, 200, by=world.collector)
        world.send(UPLINK, 200, first=200, by=world.sensor)
        proc.eventually("traffic is stored", lambda: world.holds(UPLINK, 400))

        old.terminate()
        hosts.write_text(_hosts(moved_to))
        world.start_vsensor(moved_to)
        world.send(UPLINK, 200, first=400, by=world.collector)
        world.send(UPLINK, 200, first=600, by=world.sensor)
        proc.eventually("traffic is stored after the move", lambda: world.holds(UPLINK, 800))
        code, _ = sensor.terminate()

        assert code == 0
        assert frames.verdict(range(800), world.stored_numbers(UPLINK)) == ""
        assert [tshark(path, f"tcp.port == {PORT}") for path in world.files(UPLINK)] == [0] * len(world.files(UPLINK))
        # There was an upload to capture, to either address and to none other.
        uploads = world.collector.run("nft", "list", "table", "inet", "seen")
        arrived = {address for address, packets in _COUNTER.findall(uploads) if int(packets) > 0}
        assert arrived == {"10.9.0.2", moved_to}
