"""What forwarding costs: the whole sensor beside tcpdump piped to socat or nc, in one run, under the same traffic.

    .venv/bin/python bench/forward.py [--rounds 3] [--seconds 3] [--only mix,text,64] [--lossless] [--json FILE]

Processor time is that of all processes at the sender's end (the sensor's supervisor, worker and uploader; every part of
a pipe), by the control group that they run in. The receivers run on the same two cores and are not counted; nor is the
generator. The sensor signs, encrypts and is acknowledged; socat's TLS is encrypted only, nc is neither. Programs take
turns, and medians are compared.

`mix` is noise, as encrypted payloads are; two thirds of `text` are hexadecimal digits, which compress.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from load import INTERFACE, PROFILES, Link, link, write_pcap
from results import markdown, of_rates, say, spread_ns
from usage import Group, group

_OSSENSOR: Final = str(Path(sys.executable).parent / "ossensor")
_KEY: Final = "a key that guards nothing but a measurement"
_PORT: Final = 8443
_SETTLE_S: Final = 1.5  # a quarter of a second of batch age, and what is on its way
FRAMES: Final = 6000  # 4 MB of the mix: more than zstd's level 1 remembers, so that looping gains it nothing
_START_S: Final = 60.0  # two hundred interfaces beside other work
_LADDER: Final = (200_000, 300_000, 385_000, 450_000, 550_000, 700_000)


@dataclass(frozen=True)
class Traffic:
    """What is sent."""

    pcap: Path
    mean_bytes: float
    per_s: int


class Run:
    """A sender with its receiver, both running. `counts` ends the sender: what it captured, and what was lost."""

    def __init__(self, counts: Callable[[], tuple[int, int]]) -> None:
        self.counts = counts


def until(what: str, true: Callable[[], bool]) -> None:
    until_s = time.monotonic() + _START_S
    while not true():
        if time.monotonic() > until_s:
            raise RuntimeError(f"never: {what}")
        time.sleep(0.02)


@contextmanager
def _program(argv: list[str], said: Path, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    with said.open("wb") as stderr:
        process = subprocess.Popen(argv, stderr=stderr, stdout=subprocess.DEVNULL, **more)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(on: Link) -> bool:
    argv = ["ip", "netns", "exec", on.reader, "ss", "-Hltn", f"sport = :{_PORT}"]
    return bool(subprocess.run(argv, check=True, capture_output=True).stdout.strip())


@contextmanager
def sensor(
    on: Link,
    into: Group,
    folder: Path,
    compression: str,
    devices: Sequence[str] = (INTERFACE,),
    *,
    antigena: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """The sensor and a vSensor that stores, on the same disk as everything here. `antigena`: it asks for orders."""
    environ = {"PATH": os.environ["PATH"], "VSENSOR_HMAC_KEY": _KEY}
    receiver = ["vsensor", "--listen", f"127.0.0.1:{_PORT}", "--store", str(folder / "store")]
    receiver += ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]
    environ_of_sensor = environ | {
        "VSENSOR_HOSTNAME": "127.0.0.1",
        "VSENSOR_PORT": str(_PORT),
        "OSSENSOR_NETWORK_DEVICE": " ".join(devices),
        "OSSENSOR_CONFIG_PATH": str(folder / "ossensor.cfg"),
        "OSSENSOR_COMPRESSION": compression,
        "OSSENSOR_LOG_FORMAT": "json",
        "ANTIGENA_ENABLED": str(antigena).lower(),
        "ANTIGENA_TIME_PERIOD": "1",
        **(settings or {}),
    }
    netns = ["ip", "netns", "exec", on.reader]
    said = folder / "said"
    with _program([*netns, _OSSENSOR, *receiver], folder / "vsensor", env=environ):
        until("the vSensor listens", lambda: _listens(on))
        with _program([*into.joining, *netns, _OSSENSOR, "run"], said, env=environ_of_sensor) as process:
            until("the sensor captures", lambda: said.read_text().count('"capturing"') >= len(devices))
            until("the vSensor is proven", lambda: "pinned" in said.read_text())

            def counts() -> tuple[int, int]:
                process.send_signal(signal.SIGTERM)
                process.wait(40)
                lines = [line for line in said.read_text().splitlines() if "books closed" in line]
                books = [{name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)} for line in lines]
                received = sum(of["received"] for of in books)
                return received, received - sum(of["delivered"] for of in books)

            yield Run(counts)


@contextmanager
def piped(on: Link, into: Group, folder: Path, receiver: str, sender: str, options: str = "") -> Iterator[Run]:
    """Tcpdump into a pipe, its end at a receiver that throws everything away."""
    netns = ["ip", "netns", "exec", on.reader]
    said = folder / "said"
    argv = ["sh", "-c", f"tcpdump -i {INTERFACE} -n {options} -w - | {sender}"]
    with _program([*netns, "sh", "-c", f"exec {receiver}"], folder / "receiver", cwd=folder):
        until("the receiver listens", lambda: _listens(on))
        with _program([*into.joining, *netns, *argv], said):
            until("tcpdump captures", lambda: "listening on" in said.read_text())

            def counts() -> tuple[int, int]:
                (pid,) = [p for p in into.pids() if Path(f"/proc/{p}/comm").read_text() == "tcpdump\n"]
                os.kill(pid, signal.SIGINT)
                until("tcpdump has ended", lambda: "dropped by kernel" in said.read_text())
                text = said.read_text()
                received, dropped = (
                    int(re.findall(rf"(\d+) packets? {what}", text)[0])
                    for what in ("received by filter", "dropped by kernel")
                )
                return received, dropped

            yield Run(counts)


TLS_LISTENER: Final = f"socat -u OPENSSL-LISTEN:{_PORT},bind=127.0.0.1,cert=cert.pem,key=key.pem,verify=0,reuseaddr"
_TLS_RECEIVER: Final = f"{TLS_LISTENER} OPEN:/dev/null"
TLS: Final = f"socat -u - OPENSSL:127.0.0.1:{_PORT},verify=0"
_NC_RECEIVER: Final = f"nc -l 127.0.0.1 {_PORT} > /dev/null"

Program = Callable[[Link, Group, Path], Any]
PROGRAMS: Final[dict[str, Program]] = {
    "ossensor, uncompressed": lambda on, into, folder: sensor(on, into, folder, "off"),
    "ossensor, zstd 1": lambda on, into, folder: sensor(on, into, folder, "1"),
    "ossensor, auto": lambda on, into, folder: sensor(on, into, folder, "auto"),
    "ossensor, uncompressed, Antigena without orders": lambda on, into, folder: sensor(
        on, into, folder, "off", antigena=True
    ),
    "tcpdump | socat TLS": lambda on, into, folder: piped(on, into, folder, _TLS_RECEIVER, TLS),
    "tcpdump | zstd -1 | socat TLS": lambda on, into, folder: piped(
        on, into, folder, _TLS_RECEIVER, f"zstd -q -1 | {TLS}"
    ),
    "tcpdump | nc": lambda on, into, folder: piped(on, into, folder, _NC_RECEIVER, f"nc -N 127.0.0.1 {_PORT}"),
}
_PROFILE_OF: Final = {"mix": ("663 (mix)", False), "text": ("663 (mix)", True), "64": ("64", False)}


def measure(on: Link, name: str, traffic: Traffic, *, seconds: float) -> dict[str, Any]:
    """One program under one load, with everything new."""
    with tempfile.TemporaryDirectory(prefix="ossensor-bench-") as there, group() as into:
        folder = Path(there)
        certificate(folder)
        with PROGRAMS[name](on, into, folder) as run:
            time.sleep(_SETTLE_S)
            before_s, before = into.cpu_s, on.received()
            rate = on.replay(traffic.pcap, packets=int(traffic.per_s * seconds), per_s=traffic.per_s, frames=FRAMES)
            time.sleep(_SETTLE_S)
            used_s, sent = into.cpu_s - before_s, on.received() - before
            captured, lost = run.counts()
    got = max(1, captured - lost)
    return {
        "rate": round(rate),
        "sent": sent,
        "lost": sent - got,
        "ns": used_s / got * 1e9,
    }


def certificate(folder: Path) -> None:
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-subj", "/CN=bench", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(argv, check=True, capture_output=True, cwd=folder)


def compare(on: Link, traffic: Traffic, *, rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    for turn in range(rounds):
        for name, of in runs.items():
            say(f"round {turn + 1} of {rounds}: {name}")
            of.append(measure(on, name, traffic, seconds=seconds))
    return {
        # Nanoseconds for a packet of so many bytes, or seconds for 10^9 bytes of them.
        name: (figures := of_rates(of, "lost")) | {"s_per_gb": figures["ns"] / traffic.mean_bytes}
        for name, of in runs.items()
    }


def lossless(on: Link, traffic: Traffic, *, seconds: float) -> dict[str, int]:
    """The highest rate of the ladder at which nothing was lost."""
    found = {}
    for name in PROGRAMS:
        found[name] = 0
        for per_s in _LADDER:
            say(f"lossless, {name}, {per_s}/s")
            run = measure(on, name, Traffic(traffic.pcap, traffic.mean_bytes, per_s), seconds=seconds)
            if run["lost"] or run["rate"] < 0.97 * per_s:
                break
            found[name] = run["rate"]
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    rows = []
    for traffic, result in results.items():
        for name, of in result["cpu"].items():
            rate = result.get("lossless", {}).get(name, "-")
            rows.append((traffic, name, spread_ns(of), f"{of['s_per_gb']:.2f}", of["lost"], rate))
    head = ("traffic", "program", "ns per packet (least to most)", "CPU s per GB", "lost", "lossless packets/s")
    return markdown(head, rows)


RATIOS: Final = (
    ("ossensor, uncompressed", "tcpdump | socat TLS"),
    ("ossensor, zstd 1", "tcpdump | zstd -1 | socat TLS"),
    ("ossensor, auto", "tcpdump | zstd -1 | socat TLS"),
    ("ossensor, uncompressed", "tcpdump | nc"),
    ("ossensor, auto", "tcpdump | nc"),
    ("ossensor, uncompressed, Antigena without orders", "ossensor, uncompressed"),
)


def ratios(results: dict[str, dict[str, Any]]) -> str:
    lines = []
    for traffic, result in results.items():
        for ours, theirs in RATIOS:
            ratio = result["cpu"][ours]["ns"] / result["cpu"][theirs]["ns"]
            lines.append(f"{traffic}: {ours} / {theirs} = {ratio:.2f}")
    return "\n".join(lines)


def run(*, rounds: int, seconds: float, lossless_too: bool, only: str = "mix,text,64") -> dict[str, dict[str, Any]]:
    """By kind of traffic: processor time of each program, and of the mix its lossless rate where asked."""
    results: dict[str, dict[str, Any]] = {}
    with link() as on, tempfile.TemporaryDirectory() as folder:
        subprocess.run(["ip", "-n", on.reader, "link", "set", "lo", "up"], check=True)
        for kind in only.split(","):
            called, text = _PROFILE_OF[kind]
            (profile,) = [profile for profile in PROFILES if profile.name == called]
            pcap = Path(folder) / "traffic.pcap"
            mean_bytes = write_pcap(pcap, profile, FRAMES, text=text)
            traffic = Traffic(pcap, mean_bytes, profile.steady_per_s)
            result: dict[str, Any] = {"cpu": compare(on, traffic, rounds=rounds, seconds=seconds)}
            if lossless_too and kind == "mix":
                result["lossless"] = lossless(on, traffic, seconds=seconds)
            results[f"{kind}, mean {mean_bytes:.0f}"] = result
    say("")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Processor time per forwarded packet, beside tcpdump in a pipe.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of traffic in each run")
    parser.add_argument("--only", default="mix,text,64", help="kinds of traffic, separated by commas: mix, text, 64")
    parser.add_argument("--lossless", action="store_true", help="search each program's lossless rate under mix, too")
    parser.add_argument("--json", metavar="FILE", help="results for programs")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.stderr.write("bench: needs root, for network namespaces\n")
        return 77
    results = run(
        rounds=arguments.rounds, seconds=arguments.seconds, lossless_too=arguments.lossless, only=arguments.only
    )
    print(table(results))
    print(ratios(results))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
