"""The world that the faults are done to: oracles, a sensor and a vSensor under service managers, disks of their own."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self

import zstandard
from harness import frames, proc
from harness.captures import CutShortError, read_pcapng
from harness.manager import Manager
from harness.namespaces import Namespace
from harness.programs import KEY, OSSENSOR, Sensor, VSensor, environment, log_line
from harness.wallclock import WallClock
from harness.world import PORT, SENSOR_NAME, Sender, World, tag_for
from judge import Link
from plan import LINKS
from service import Service

RATES: Final = dict(zip(LINKS, (3000, 500, 500), strict=True))
ENFORCER: Final = "oss-antigena"
HOST: Final = "10.9.0.2"
# Small, so that a few seconds without a vSensor fill them and the disk is needed.
SMALL: Final = {"OSSENSOR_BUFFER_MB": "8", "OSSENSOR_RING_MB": "16", "OSSENSOR_BATCH_MS": "200", "OSSENSOR_DEBUG": "2"}
_DISKS_MB: Final = 2048
_NOBODY: Final = 65_534
_PATIENCE_S: Final = 180


class Oracle:
    """Frames with numbers, onto one link, outside all faults: it knows what it has sent."""

    def __init__(self, world: World, link: str) -> None:
        self._world, self._link = world, link
        self.sent = 0
        self._sender: Sender | None = None

    def resume(self) -> None:
        self._sender = self._world.sender(self._link, per_second=RATES[self._link], first=self.sent)

    def pause(self) -> None:
        """Stops, and returns once all that it has sent is through the link."""
        assert self._sender is not None
        self.sent += self._sender.stop()


class Disk:
    """A small disk of one namespace, that can be made full at once: a tmpfs takes any size that what it holds fits."""

    def __init__(self, inside: Namespace, folder: Path, owner: int) -> None:
        self._inside, self.folder = inside, folder
        folder.mkdir()
        options = f"size={_DISKS_MB}m,uid={owner},gid={owner},mode=700"
        inside.run("mount", "-t", "tmpfs", "-o", options, "none", folder)
        self.seen_from_outside = Path(f"/proc/{inside.pid}/root{folder}")

    def fill(self) -> bool:
        """Leaves room for nothing more. What is written meanwhile may make it grow under our hands: then again."""
        for _ in range(20):
            used = self._inside.run("df", "--block-size=1K", "--output=used", self.folder).split()[-1]
            with suppress(AssertionError):
                self._inside.run("mount", "-o", f"remount,size={max(int(used), 4)}k", self.folder)
                return True
        return False

    def empty(self) -> None:
        self._inside.run("mount", "-o", f"remount,size={_DISKS_MB}m", self.folder)


class Site:
    """All of it, from construction to `close`."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path], logs: Path) -> None:
        """`logs`: where every line of every life is, in the end."""
        self._stack, self._logs = ExitStack(), logs
        self.folder, self._certificate = folder, certificate
        self.world = self._stack.enter_context(World(folder, certificate))
        self.world.add_link(*LINKS)
        self.oracles = {link: Oracle(self.world, link) for link in LINKS}
        self.store = Disk(self.world.collector, folder / "vsensor", 0)
        self.spool = Disk(self.world.sensor, folder / "sensor", _NOBODY)
        self.clocks = {name: WallClock(folder / f"{name}.clock") for name in ("sensor", "vsensor")}
        self.keys = {name: {"VSENSOR_HMAC_KEY": KEY} for name in ("sensor", "vsensor")}
        self.exclude("")
        self._token = folder / "token"
        self._token.touch(0o600)
        self._token.write_text(secrets.token_urlsafe(32))
        self.systemd = Manager(folder)
        self._stack.callback(self.systemd.close)
        self.vsensor: Service[VSensor] = Service(self._start_vsensor)
        self._stack.callback(self.vsensor.close)
        self._order()
        self.keeps = True  # whether the sensor's next life may leave anything to the manager
        self.sensor: Service[Sensor] = Service(self._start_sensor)
        self._stack.callback(self.sensor.close)
        # "retired": what waits of an interface that is captured no more is lost with the supervisor (DESIGN.md, 10).
        self.locks = {name: threading.Lock() for name in ("worker", "uploader", "enforcer", "retired")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name, service in (("sensor", self.sensor), ("vsensor", self.vsensor)):
            service.write_logs(self._logs, name)
        self._stack.close()

    def _start_vsensor(self) -> VSensor:
        options = ("--rotate-mb", "1", "--compress-closed", "--pcap-over-ip", "127.0.0.1:57012")
        token = ("--operator-token-file", str(self._token))
        variables = {**self.keys["vsensor"], **self.clocks["vsensor"].variables}
        store = self.store.folder / "store"
        return VSensor(
            self.world.collector, HOST, PORT, store, self._certificate, variables, options=(*options, *token)
        )

    def _start_sensor(self) -> Sensor:
        changes = {
            **SMALL,
            **self.keys["sensor"],
            **self.clocks["sensor"].variables,
            **(self.systemd.environment if self.keeps else {}),
            "OSSENSOR_SPOOL_DIR": str(self.spool.folder / "spool"),
            "ANTIGENA_TIME_PERIOD": "1",
        }
        return Sensor(self.world.sensor, self.world.settings(changes), under=self.systemd.under)

    def _order(self) -> None:
        """One order, about nobody, so that there is an enforcer to be killed."""
        where = ("--url", f"https://{HOST}:{PORT}", "--token-file", self._token, "--ca-file", self._certificate[0])
        sides = ("--src", "203.0.113.1", "--dst", "203.0.113.2", "--duration", "2600000", "--all")
        self.world.collector.run(OSSENSOR, "antigena", "block", *sides, *where, env=environment({}))

    def exclude(self, pattern: str) -> None:
        """What the sensor is to read at its next SIGHUP or start."""
        text = f"NETWORK_DEVICE_EXCLUDELIST={pattern}\n"
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
            file.write(text)
        Path(file.name).rename(self.world.config)

    def epochs(self, link: str) -> set[str]:
        """Those of which a worker has said that it captures."""
        return {record["epoch"] for record in self.sensor.records("capturing", interface=link)}

    def await_new_epoch(self, link: str, known: set[str]) -> None:
        """Until the link is captured in an epoch that is not among those."""
        proc.eventually(f"{link} is captured anew", lambda: self.epochs(link) - known, _PATIENCE_S)

    def serving(self) -> dict[str, list[int]]:
        """The vSensor's processes below its keeper, by what they do."""
        keeper = self.vsensor.current().pid
        found: dict[str, list[int]] = {"server": [], "streamer": [], "janitor": []}
        for pid in proc.tree(keeper)[1:]:
            found[_role(pid)].append(pid)
        return found

    def audited(self) -> list[dict[str, Any]]:
        """What `ossensor audit --deep` says of each epoch."""
        argv = self.world.collector.inside(OSSENSOR, "audit", self.store.folder / "store", "--deep", "--json")
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def link(self, name: str, audited: list[dict[str, Any]]) -> Link:
        """What the judge is to know of one link."""
        stored, altered, tag = [], 0, tag_for(name)
        for frame in self._stored(name):
            number = frames.number_of(frame)
            stored.append(number)
            altered += frame != frames.small(tag, number)
        epochs = [one for one in audited if one["interface"] == name]
        return Link(name, self.oracles[name].sent, stored, altered, epochs, self.books(name))

    def books(self, link: str) -> list[dict[str, int]]:
        """What the sensor said of each epoch when it closed its books."""
        lines = [json.loads(log_line(line)) for line in self.sensor.lines("books closed: ")]
        said = [line["message"] for line in lines if line["interface"] == link]
        return [{name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", text)} for text in said]

    def _stored(self, link: str) -> Iterator[bytes]:
        """The oracle's frames that are stored. Files are copied and opened, so that writer and janitor may go on."""
        folder = self.store.seen_from_outside / "store" / SENSOR_NAME / link
        with tempfile.NamedTemporaryFile(dir=self.folder) as copy:
            for name in sorted({path.name.partition(".pcapng")[0] for path in folder.glob("*.pcapng*")}):
                Path(copy.name).write_bytes(_content(folder / f"{name}.pcapng"))
                found = (packet.data for packet in read_pcapng(Path(copy.name)))
                yield from (frame for frame in found if frames.tag_of(frame) == tag_for(link))

    def stores(self) -> bool:
        """Whether there is a file of each link."""
        folder = self.store.seen_from_outside / "store" / SENSOR_NAME
        return all(list(folder.glob(f"{link}/*.pcapng*")) for link in LINKS)

    def holds(self, link: str, number: int) -> bool:
        """Whether the frame of this number is stored."""
        with suppress(CutShortError):
            return any(frames.number_of(frame) == number for frame in self._stored(link))
        return False

    def felt(self) -> Counter[str]:
        """How often each trace was found that the faults leave behind."""
        sensor, vsensor = self.sensor, self.vsensor
        return Counter(
            {
                "a worker died": len(sensor.records("worker died")),
                "an uploader died": len(sensor.records("uploader died")),
                "an enforcer died": len(sensor.records("enforcer died")),
                "a capture was taken over": len(sensor.records("capture taken over")),
                "the sensor was started again": len(sensor.lives) - 1,
                "the vSensor was started again": len(vsensor.lives) - 1,
                "a child that hung was found": len(sensor.lines("hangs: SIGABRT")),
                "the vSensor could not be reached": len(sensor.records("the vSensor cannot be reached")),
                "a batch came twice": len(sensor.records("sent batch", answer="200 present")),
                "a disk was full": len(vsensor.lines("No space left")) + len(sensor.lines("No space left")),
                "the clocks differed": len(sensor.records("the clocks differ; signing by the vSensor's")),
            }
        )


def _content(path: Path) -> bytes:
    """What the file held before the janitor compressed it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        with path.with_name(f"{path.name}.zst").open("rb") as packed:
            return zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True).read()


def _role(pid: int) -> str:
    with suppress(OSError):
        if b"vsensor.janitor" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return "janitor"
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if fd.readlink().name.startswith("index.sqlite"):
                    return "server"
    return "streamer"
