"""What the collector tells the person or the program that started it: lines on standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ossensor.antigena import words
from ossensor.transport.introduction import Introduction

from .orderbook import Entry
from .recovery import Recovery
from .retention import Doomed
from .store import Total
from .trail import Who


def printed(line: str) -> None:
    """To standard output. Whoever was reading may have gone; storing goes on."""
    with contextlib.suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class Report:
    """Writes events as sentences, or as JSON objects with an `event` member, one per line.

    A process whose children say nothing reports within `own`, and waits for no reader.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        store: Path,
        *,
        as_json: bool,
        own: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._write = write
        self.own = own
        self._store = store
        self._as_json = as_json
        self._totals: Mapping[tuple[str, str], Total] = {}
        self._tally: dict[str, int] = {}
        self._streamed: dict[str, int] = {}

    def _say(self, sentence: str, event: str, **members: Any) -> None:
        self._write(json.dumps({"event": event, **members}) if self._as_json else sentence)

    def listening(self, address: str, certificate: Path, sha256: str, *, page: bool) -> None:
        """`page`: whether there is one; it takes an operator's token."""
        where = f"page at https://{address}/" if page else "no page (it takes --operator-token-file)"
        self._say(
            f"vsensor: listening on https://{address}, storing in {self._store},"
            f" certificate {certificate} (SHA-256 {sha256}), {where}",
            "listening",
            address=address,
            store=str(self._store),
            certificate=str(certificate),
            sha256=sha256,
            page=f"https://{address}/" if page else None,
        )

    def serving(self, pid: int) -> None:
        """For programs only: which process a person could not do anything about anyway."""
        if self._as_json:
            self._say("", "serving", pid=pid)

    def streams(self, readers: str | None, vxlan: str | None) -> None:
        """Where what is stored is told on."""
        ways = [f"to readers of tcp://{readers}"] if readers else []
        ways += [f"as VXLAN to udp://{vxlan}"] if vxlan else []
        self._say(f"vsensor: streaming {' and '.join(ways)}", "streams", pcap_over_ip=readers, vxlan=vxlan)

    def streaming(self, pid: int) -> None:
        """As `serving`."""
        if self._as_json:
            self._say("", "streaming", pid=pid)

    def reader_joined(self, peer: str) -> None:
        self._say(f"streams: {peer} reads", "reader_joined", peer=peer)

    def reader_left(self, peer: str, packets: int, unsent: int) -> None:
        """By itself, or because there is nothing more to read; what it had not taken then is `unsent`."""
        sentence = f"streams: {peer} has read {packets:,} packets"
        self._say(sentence, "reader_left", peer=peer, packets=packets, unsent=unsent)

    def reader_cut_off(self, peer: str, packets: int, unsent: int, behind_bytes: int) -> None:
        self._say(
            f"streams: {peer} CUT OFF, {behind_bytes:,} bytes behind, after {packets:,} packets; {unsent:,} not sent",
            "reader_cut_off",
            peer=peer,
            packets=packets,
            unsent=unsent,
            behind_bytes=behind_bytes,
        )

    def streamed(self, counts: Mapping[str, int]) -> None:
        """What became of packets that were to be streamed, when that has changed; see streams/books.py."""
        if counts != self._streamed:
            self._say("streams: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()), "streamed", **counts)
            self._streamed = dict(counts)

    def restarting(self, what: str, pid: int, why: str, delay_s: float) -> None:
        self._say(
            f"vsensor: the {what} process{f' {pid}' if pid else ''} {why}; the next one starts in {delay_s:.1f} s",
            "restarting",
            what=what,
            pid=pid,
            why=why,
            delay_s=round(delay_s, 3),
        )

    def recovered(self, found: Recovery) -> None:
        """Says what was not in order at the start; nothing when all was."""
        if found.cut_files or found.empty_files:
            self._say(
                f"vsensor: removed {found.cut_bytes} unacknowledged bytes from {found.cut_files} files,"
                f" and {found.empty_files} empty files",
                "recovered",
                cut_files=found.cut_files,
                cut_bytes=found.cut_bytes,
                empty_files=found.empty_files,
            )
        if found.short_files:
            self._say(
                f"vsensor: {len(found.short_files)} FILES ARE SHORTER THAN WHAT WAS ACKNOWLEDGED:"
                f" {', '.join(found.short_files)}",
                "short",
                files=found.short_files,
            )

    def removed(self, doomed: Doomed) -> None:
        """Retention took a file away."""
        why = {"age": "older than --keep-days", "size": "the store was over --keep-gb"}[doomed.why]
        self._say(
            f"vsensor: removed {doomed.file}, {doomed.disk_bytes:,} bytes: {why}",
            "removed",
            file=doomed.file,
            bytes=doomed.disk_bytes,
            why=doomed.why,
        )

    def packed(self, file: str, packed_bytes: int) -> None:
        """The janitor compressed a file."""
        self._say(
            f"vsensor: compressed {file} to {packed_bytes:,} bytes", "packed", file=file, packed_bytes=packed_bytes
        )

    def nats(self, what: str) -> None:
        """Something about the connection to NATS."""
        self._say(f"nats: {what}", "nats", what=what)

    def trouble(self, what: str) -> None:
        """Something about the housekeeping: nothing is lost by it, but the disk may fill."""
        self._say(f"vsensor: housekeeping: {what}", "trouble", what=what)

    def introduced(self, sensor: str, who: Introduction) -> None:
        """A sensor is new, or has changed."""
        task = f", task {who.task['family']}:{who.task.get('revision', '?')}" if "family" in who.task else ""
        captures = ", ".join(who.interfaces) or "nothing"
        captures += f" and {more} more" if (more := who.interfaces_in_all - len(who.interfaces)) > 0 else ""
        refused = f"; REFUSED THE PACKET FILTER: {who.packet_filter_refused}" if who.packet_filter_refused else ""
        self._say(
            f"{sensor}: {who.application} on {who.host}{task}, captures {captures}{refused}",
            "introduced",
            sensor=sensor,
            **json.loads(who.body),
        )

    def operated(self, what: str, who: Who, entry: Entry) -> None:
        """An operator placed, cleared or extended an order, and it is durable."""
        target, action = entry
        whom = "all sensors" if target.kind == "all" else f"{target.kind} {target.name}"
        self._say(
            f"antigena: {what} {action.id} by token {who.token} from {who.peer}: {words.action(action)}, {whom},"
            f" until {words.time(action.expires_s)}",
            what,
            **who._asdict(),
            target=target.to_json(),
            action=action.to_json(),
        )

    def operator_refused(self, peer: str, left_out: int) -> None:
        """Somebody came to the operator's door without its token."""
        more = f" ({left_out} more since the last such line)" if left_out else ""
        self._say(
            f"antigena: {peer} DID NOT SHOW THE OPERATOR'S TOKEN{more}", "unauthorised", peer=peer, left_out=left_out
        )

    def progress(self, totals: Mapping[tuple[str, str], Total], tally: Mapping[str, int]) -> None:
        """What has come in since the last call: each interface with anything new, and each kind of refusal."""
        for (sensor, interface), total in totals.items():
            if self._totals.get((sensor, interface)) != total:
                self._say(
                    f"{sensor} {interface}: {total.packets:,} packets, {total.bytes:,} bytes,"
                    + (f" writing {self._store / total.file}" if total.file else " published"),
                    "received",
                    sensor=sensor,
                    interface=interface,
                    packets=total.packets,
                    bytes=total.bytes,
                    file=str(self._store / total.file) if total.file else None,
                )
        refused = {name: n for name, n in tally.items() if name not in {"stored", "present"}}
        if refused != self._tally:
            self._say(
                "vsensor: not stored: " + ", ".join(f"{n:,} {name}" for name, n in sorted(refused.items())),
                "refused",
                **{name.replace("-", "_"): n for name, n in refused.items()},
            )
        self._totals, self._tally = totals, refused
