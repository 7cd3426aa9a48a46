"""The small world that every test runs in: three namespaces and the links between them.

    generator  --cap0, cap1, ...-->  sensor  --up0-->  collector

The sensor's namespace has the sensor and nothing else; `cap*` links are silent, carry only what a test sends, and have
the same name at both ends; `up0` has addresses, and is the way to the vSensor.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote

from harness import frames
from harness.captures import CutShortError, Packet, read_pcapng
from harness.namespaces import Namespace, address, silence, wire
from harness.proc import HANGS_S, eventually
from harness.programs import KEY, OSSENSOR, Program, Sensor, VSensor, environment

SENSOR_NAME = "netns-sensor"
PORT = 8443
UPLINK = "up0"
HOME_ADDRESSES = ("10.9.0.1/24", "fd00:9::1/64")
VSENSOR_ADDRESSES = ("10.9.0.2/24", "10.9.0.3/24", "fd00:9::2/64")
VSENSOR_NAMES = ("DNS:vsensor.test", "IP:10.9.0.2", "IP:10.9.0.3", "IP:fd00:9::2")
# Of a frame and what is around it in the store: at least, and, less a margin, on the average of many (213).
_LEAST_FRAME_BYTES, _FRAME_BYTES = 92, 200
_NO_CHANGES: Mapping[str, str | None] = MappingProxyType({})
_PACKAGE_ROOT = Path(__file__).parents[1]


def tag_for(interface: str) -> int:
    """The tag that frames sent onto this interface carry."""
    return zlib.crc32(interface.encode()) % 256


def unread_for(batch_ms: int) -> dict[str, str]:
    """Settings for batches of that age, and a ring that holds what comes in five seconds while its worker stands still.

    The kernel closes each block of 256 KiB after half that age, however empty (docs/operations.md, "How long an outage
    is bridged"): the default's 64 are closed within a third of a second where batches are of ten milliseconds.
    """
    blocks = 5_000 // min(100, batch_ms // 2)
    return {
        "OSSENSOR_BATCH_MS": str(batch_ms),
        "OSSENSOR_RING_MB": str(blocks // 4),
        "OSSENSOR_MEMORY_MB": "1024",
    }


class Sender:
    """Numbered frames at a steady rate, from construction to `stop`."""

    def __init__(self, namespace: Namespace, interface: str, *, per_second: int, first: int = 0) -> None:
        numbers = map(str, (tag_for(interface), first, per_second))
        argv = namespace.inside(sys.executable, "-m", "harness.sender", interface, *numbers)
        self._process = subprocess.Popen(
            argv, env=package_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "sending\n"

    def stop(self) -> int:
        """How many frames it has sent, now that it has stopped."""
        said, _ = self._process.communicate(timeout=HANGS_S)
        assert self._process.returncode == 0
        return int(said)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def package_environment() -> dict[str, str]:
    """For programs of the harness."""
    return environment({"PYTHONPATH": str(_PACKAGE_ROOT), "PYTHONDONTWRITEBYTECODE": "1"})


class World:
    """The namespaces, with what was started in them; all of it ends with the block, in reverse order."""

    def __init__(self, folder: Path, tls: tuple[Path, Path], *, ipv6: bool = False) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.config = folder / "ossensor.cfg"
        self._tls = tls
        self._stack = ExitStack()
        self.sensor, self.generator, self.collector = (
            self._stack.enter_context(Namespace(ipv6=ipv6)) for _ in range(3)
        )
        wire(self.sensor, UPLINK, self.collector, UPLINK)
        for namespace, addresses in ((self.sensor, HOME_ADDRESSES), (self.collector, VSENSOR_ADDRESSES)):
            address(namespace, UPLINK, *(one for one in addresses if ipv6 or ":" not in one))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_link(self, *names: str) -> None:
        """Adds silent links from the generator to the sensor, wide enough for any frame."""
        for name in names:
            wire(self.sensor, name, self.generator, name, mtu=65_535)
            for namespace in (self.sensor, self.generator):
                silence(namespace, name)

    def remove_link(self, name: str) -> None:
        self.sensor.run("ip", "link", "delete", name)

    def arrived(self, interface: str) -> int:
        """How many packets the sensor's end of the link has received, by the kernel's count."""
        return int(self.sensor.links()[interface]["stats64"]["rx"]["packets"])

    def start(self, namespace: Namespace, *argv: str, env: Mapping[str, str] | None = None) -> Program:
        """Any program, in one of the namespaces, for as long as this world lasts."""
        program = Program(namespace.inside(*argv), env or environment({}))
        self._stack.callback(program.close)
        return program

    def start_vsensor(
        self,
        host: str = "10.9.0.2",
        *,
        options: tuple[str, ...] = (),
        store: Path | None = None,
        tls: tuple[Path, Path] | None = None,
        **keys: str,
    ) -> VSensor:
        """`keys`: variables in place of the one key of all tests; `store`, `tls`: in place of the world's."""
        more = (keys,) if keys else ()
        vsensor = VSensor(self.collector, host, PORT, store or self.store, tls or self._tls, *more, options=options)
        self._stack.callback(vsensor.close)
        return vsensor

    def settings(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        """The environment of a sensor that captures `cap*` and uploads through `up0`, with these changes."""
        variables: dict[str, str | None] = {
            "VSENSOR_HOSTNAME": "10.9.0.2",
            "VSENSOR_PORT": str(PORT),
            "VSENSOR_HMAC_KEY": KEY,
            "OSSENSOR_SENSOR_NAME": SENSOR_NAME,
            "OSSENSOR_CONFIG_PATH": str(self.config),
            "OSSENSOR_LOG_FORMAT": "json",
            "NETWORK_DEVICE_INCLUDELIST": "^cap",
        }
        return environment({**variables, **changes})

    def start_sensor(
        self, *awaited: str, changes: Mapping[str, str | None] = _NO_CHANGES, under: tuple[str, ...] = ()
    ) -> Sensor:
        """A sensor, once it captures the interfaces in `awaited`."""
        sensor = Sensor(self.sensor, self.settings(changes), under=under)
        self._stack.callback(sensor.close)
        for interface in awaited:
            sensor.wait_for("capturing", interface=interface)
        return sensor

    def send(
        self, interface: str, count: int, *, first: int = 0, per_second: int = 20_000, by: Namespace | None = None
    ) -> None:
        """Sends numbered frames onto the interface, from its end in namespace `by`; all are through it on return."""
        numbers = map(str, (tag_for(interface), first, per_second, count))
        argv = [sys.executable, "-m", "harness.sender", interface, *numbers]
        said = (by or self.generator).run(*argv, env=package_environment())
        assert said == f"sending\n{count}\n"

    def sender(self, interface: str, *, per_second: int, first: int = 0) -> Sender:
        sender = Sender(self.generator, interface, per_second=per_second, first=first)
        self._stack.callback(sender.close)
        return sender

    def carries(self, interface: str) -> None:
        """Returns once both ends of a link that was down carry frames: before, their queues eat them silently."""
        for namespace in (self.sensor, self.generator):
            eventually(f"{interface} carries", lambda: namespace.links()[interface]["operstate"] == "UP")  # noqa: B023

    def status(self) -> dict[str, Any]:
        """What `ossensor status` says. It waits three seconds: where the machine stood still, it is asked again."""
        argv = self.sensor.inside(OSSENSOR, "status", "--json")
        for _ in range(3):
            done = subprocess.run(argv, capture_output=True, text=True, env=self.settings({}), check=False)
            if "has not answered" not in done.stderr:
                break
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def black_hole(self) -> None:
        """From now on nothing that is sent to the vSensor's port arrives, and nobody is told."""
        table = f"table inet hole {{ chain in {{ type filter hook input priority 0; tcp dport {PORT} drop; }}; }}"
        self.collector.run("nft", table)

    def interfaces_stored(self) -> set[str]:
        """The interfaces that the store holds anything of."""
        return {path.parent.name for path in (self.store / SENSOR_NAME).glob("*/*.pcapng")}

    def files(self, interface: str) -> list[Path]:
        """The store's files of the interface, oldest first."""
        return sorted((self.store / SENSOR_NAME / quote(interface, safe="")).glob("*.pcapng"))

    def holds(self, interface: str, count: int) -> bool:
        """True when the store, as it is being written, holds at least so many of the frames sent onto the interface."""
        if self.stored_bytes(interface) < count * (_FRAME_BYTES if count > 1000 else _LEAST_FRAME_BYTES):
            return False  # without reading all of it fifty times a second
        try:
            return len(self.stored_numbers(interface)) >= count
        except CutShortError:
            return False

    def stored_bytes(self, interface: str) -> int:
        return sum(path.stat().st_size for path in self.files(interface))

    def stored(self, interface: str, *, finished: bool = True) -> list[Packet]:
        """Everything the store holds of the interface, in its order. `finished`: fails on a file that is cut short."""
        return [packet for path in self.files(interface) for packet in read_pcapng(path, finished=finished)]

    def stored_numbers(self, interface: str, *, finished: bool = True) -> list[int]:
        """The numbers of the frames sent onto the interface that the store holds, in its order."""
        packets = self.stored(interface, finished=finished)
        return list(frames.ours((packet.data for packet in packets), tag_for(interface)))
