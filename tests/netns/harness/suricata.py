"""Suricata, as `make suricata` unpacked it: what it raises on a file, on a pipe, on a wire."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.programs import environment

_ROOT = Path(__file__).parents[3] / "build" / "suricata"

# A needle each way that lies across two segments, one deep in a large response, one in a datagram each way.
RULES = """
alert tcp any any -> any 8000 (msg:"across two segments to the server"; flow:to_server,established; \
content:"needle-to-the-server"; sid:1;)
alert tcp any 8000 -> any any (msg:"across two segments to the client"; flow:to_client,established; \
content:"needle-to-the-client"; sid:2;)
alert http any any -> any any (msg:"a request"; flow:to_server; http.uri; content:"/secret/page"; sid:3;)
alert http any any -> any any (msg:"a response"; flow:to_client; file.data; content:"needle-in-the-page"; sid:4;)
alert udp any any -> any any (msg:"a datagram"; content:"needle-in-a-datagram"; sid:5;)
alert tcp any any -> any any (msg:"of a flow that is not there"; content:"needle-nowhere"; sid:6;)
"""


class Alert(NamedTuple):
    """What makes an alert the same alert."""

    rule: int
    source: tuple[str, int]
    destination: tuple[str, int]


class Suricata:
    """A folder with rules, and the logs of one run."""

    def __init__(self, folder: Path) -> None:
        if not (_ROOT / ".unpacked").exists():
            pytest.skip("there is no Suricata: `make suricata`")
        self.folder = folder
        folder.mkdir()
        self.rules = folder / "test.rules"
        self.rules.write_text(RULES)

    def argv(self, *source: str) -> list[str]:
        """The argument list that reads `source`: -r FILE, or --pcap=INTERFACE."""
        etc = _ROOT / "etc" / "suricata"
        settings = {
            "classification-file": etc / "classification.config",
            "reference-config-file": etc / "reference.config",
            "threshold-file": etc / "threshold.config",
            "unix-command.enabled": "no",
            # What a test sends is small, and must be seen although the sender's kernel left checksums to a card.
            "stream.checksum-validation": "yes",
            "app-layer.protocols.http.libhtp.default-config.response-body-limit": "10mb",
        }
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        command = [str(_ROOT / "usr" / "bin" / "suricata"), "-c", str(etc / "suricata.yaml"), "-S", str(self.rules)]
        return [*command, "-l", str(self.folder), "-k", "all", *sets, *source]

    @staticmethod
    def env() -> Mapping[str, str]:
        libraries = ":".join(str(path) for path in (_ROOT / "usr" / "lib").glob("*-linux-gnu"))
        return environment({"LD_LIBRARY_PATH": libraries})

    def run(self, *source: str, stdin: int = subprocess.DEVNULL) -> None:
        """Reads the source to its end."""
        done = subprocess.run(
            self.argv(*source), env=self.env(), stdin=stdin, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def started(self) -> bool:
        """True once it looks at packets."""
        log = self.folder / "suricata.log"
        return log.exists() and re.search(r"Engine started", log.read_text()) is not None

    def events(self, kind: str) -> list[dict[str, object]]:
        """Those that are written, to the end of the last line that is whole."""
        log = self.folder / "eve.json"
        lines = log.read_text().rpartition("\n")[0].splitlines() if log.exists() else []
        return [event for event in map(json.loads, lines) if event["event_type"] == kind]

    def alerts(self) -> Counter[Alert]:
        """How often each was raised."""
        return Counter(
            Alert(e["alert"]["signature_id"], (e["src_ip"], e["src_port"]), (e["dest_ip"], e["dest_port"]))  # type: ignore[index]
            for e in self.events("alert")
        )
