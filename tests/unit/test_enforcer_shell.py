"""The enforcer's loop, between who tells it things and sockets that show it packets: what it makes of both."""

from __future__ import annotations

import errno
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from antigena_talks import Talk

from ossensor.antigena.actions import MAX_ACTIONS
from ossensor.capture.bpf import Statistics
from ossensor.capture.cooked import Seen
from ossensor.control import Channel, Parts
from ossensor.errors import Exit
from ossensor.transport.orders import Orders, Report
from ossensor.workers import enforcer
from ossensor.workers.child import Heartbeat
from ossensor.workers.enforcer import Enforcer, Plan

BOOK, OTHER_BOOK = "a" * 32, "b" * 32
TALK = Talk()
EXACT = {
    "id": "exact",
    "protocol": "tcp",
    "source": {"network": TALK.here, "port": TALK.here_port},
    "destination": {"network": TALK.there, "port": TALK.there_port},
}


class FakeWatch:
    """A watch socket that a test fills. `longest_bytes`: of the programs that its kernel takes."""

    def __init__(self, fd: int, longest_bytes: int) -> None:
        self._fd = fd
        self._longest_bytes = longest_bytes
        self.program: bytes | None = None
        self.waiting: list[Seen] = []
        self.dropped = 0

    def fileno(self) -> int:
        return self._fd

    def show(self, program: bytes | None) -> None:
        if program is not None and len(program) > self._longest_bytes:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        self.program = program

    def read(self, most: int) -> Iterator[Seen]:
        for _ in range(min(most, len(self.waiting))):
            yield self.waiting.pop(0)

    def statistics(self) -> Statistics:
        dropped, self.dropped = self.dropped, 0
        return Statistics(dropped, dropped)


class FakeSockets:
    def __init__(self, watches: tuple[FakeWatch, ...]) -> None:
        self.watches = watches
        self.sent: list[tuple[str, int]] = []
        self.error: OSError | None = None

    def send(self, packet: bytes, destination: str, scope: int = 0) -> None:
        assert packet
        if self.error:
            raise self.error
        self.sent.append((destination, scope))


class OneTurn:
    """Signals that let the loop turn once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._asked = 0

    def fileno(self) -> int:
        return self._fd

    def take(self) -> set[int]:
        self._asked += 1
        return {15} if self._asked > 1 else set()


class Bench:
    def __init__(self, mode: Any = "enforce", watches: int = 4, longest_bytes: int = 1 << 20) -> None:
        self.ours, theirs = Channel.pair()
        self._quiet, self._loud = socket.socketpair()
        self._loud.send(b"!")  # so that no turn waits
        self.sockets = FakeSockets(tuple(FakeWatch(self._quiet.fileno(), longest_bytes) for _ in range(watches)))
        self._heartbeat = Heartbeat()
        lent: Any = self.sockets
        self.enforcer = Enforcer(Plan(mode, ()), theirs, lent, self._heartbeat)
        self._theirs = theirs
        self._parts = Parts()

    def close(self) -> None:
        for one in (self.ours, self._theirs, self._quiet, self._loud, self._heartbeat):
            one.close()

    def turn(self) -> Exit:
        signals: Any = OneTurn(self._quiet.fileno())
        return self.enforcer.run(signals)

    def tell(self, op: str, text: str) -> None:
        assert self.ours.send_text(op, text)

    def attend(self, *interfaces: str, flows: tuple[tuple[str, int], ...] = ()) -> None:
        self.tell("surroundings", json.dumps({"interfaces": interfaces, "flows": flows}))

    def tell_orders(self, version: int, *orders: dict[str, Any], book: str = BOOK) -> None:
        times = {"kind": "block", "start_s": 0, "expires_s": 1000}
        body = Orders(book, version, tuple({**times, **one} for one in orders)).body.decode()
        self.tell("orders", f'{{"ahead_s": {500 - time.clock_gettime(time.CLOCK_BOOTTIME)}, "orders": {body}}}')

    def order(self, version: int, *orders: dict[str, Any], book: str = BOOK) -> Report:
        """What is reported in the turn that obeys these, the last of it."""
        self.tell_orders(version, *orders, book=book)
        self.turn()
        return self.reports()[-1]

    def reports(self) -> list[Report]:
        texts = [self._parts.maybe_whole(message) for message, _ in self.ours.receive()]
        return [Report.parse(text.encode()) for text in texts if text is not None]

    def show(self, *packets: bytes, interface: str = "eth0") -> None:
        watch = self.sockets.watches[0]
        if watch.program is not None:  # the kernel keeps nothing for one that sleeps
            watch.waiting += [Seen(interface, outgoing=False, packet=packet) for packet in packets]
        self.turn()

    @property
    def awake(self) -> int:
        return sum(watch.program is not None for watch in self.sockets.watches)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as one:
        one.attend("eth0")
        yield one


def test_orders_that_came_before_the_surroundings_wait_for_them() -> None:
    with closing(Bench()) as bench:
        assert bench.order(1, EXACT).actions == {"exact": {}}
        bench.show(TALK.packet())
        assert (bench.awake, bench.sockets.sent) == (0, [])

        bench.attend("eth0")
        bench.turn()
        bench.show(TALK.packet())
        assert (bench.awake, bench.sockets.sent) == (1, [(TALK.here, 0), (TALK.there, 0)])


def test_what_another_interface_shows_is_passed_over(bench: Bench) -> None:
    bench.order(1, EXACT)
    bench.show(TALK.packet(), interface="eth1")
    assert bench.sockets.sent == []

    bench.show(TALK.packet())
    assert len(bench.sockets.sent) == 2


def test_whom_the_host_asks_for_names_now_is_spared(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also whom systemd-resolved asks, whatever letters a comment has, and after DHCP has replaced the file."""
    stub, upstream = tmp_path / "resolv.conf", tmp_path / "upstream"
    monkeypatch.setattr(enforcer, "_RESOLVER_CONFIGURATIONS", (stub, upstream))
    queries = [Talk("10.0.0.1", 50_000, server, 53, "udp") for server in ("192.0.2.53", "192.0.2.54")]

    def ended() -> list[int]:
        """To how many ends of a query to each something is sent, in the turn after a look."""
        bench.turn()
        found = []
        for query in queries:
            bench.sockets.sent.clear()
            bench.show(query.packet())
            found.append(len(bench.sockets.sent))
        return found

    stub.write_bytes(b"# R\xe4ume\nnameserver 127.0.0.53\n")
    upstream.write_text("nameserver 192.0.2.53\n")
    bench.order(1, {"id": "a", "kind": "quarantine", "source": {"network": "10.0.0.1"}})
    assert ended() == [0, 2]
    upstream.unlink()
    stub.write_bytes(b"# R\xe4ume\nnameserver 192.0.2.54\n")
    bench.attend("eth0")
    assert ended() == [2, 0]
    stub.write_text("")
    bench.attend("eth0")
    assert ended() == [2, 0]
    upstream.write_text("nameserver 192.0.2.53\n")  # while the other is being written
    bench.attend("eth0")
    assert ended() == [0, 0]


def test_observing_sends_nothing() -> None:
    with closing(Bench("observe")) as bench:
        bench.attend("eth0")
        bench.order(1, EXACT)
        bench.show(TALK.packet())
        assert bench.order(2, EXACT).actions == {"exact": {"matched": 1, "withheld": 2}}
        assert bench.sockets.sent == []


def test_a_link_local_end_is_reached_by_the_interface_that_showed_it(bench: Bench) -> None:
    talk = Talk("fe80::1", 50_000, "fe80::2", 443)
    bench.attend("lo")
    bench.order(1, {"id": "a", "source": {"network": "fe80::1"}})
    bench.show(talk.packet(), interface="lo")
    scope = socket.if_nametoindex("lo")

    assert bench.sockets.sent == [("fe80::1", scope), ("fe80::2", scope)]


def test_everything_that_is_wrong_with_orders_is_reported_by_their_ids() -> None:
    with closing(Bench()) as bench:
        bench.attend("eth0", flows=(("192.0.2.9", 443),))
        report = bench.order(
            1,
            EXACT,
            EXACT,
            {"id": "late", "source": {"network": "10.0.0.1"}, "expires_s": 499},
            {"id": "own", "destination": {"network": "192.0.2.9"}},
            {"id": "wide", "destination": {"network": "192.0.2.0/24"}},
            {"id": "bad", "source": {"network": "10.0.0.1/8"}},
            {"id": "line\nbreak", "source": {"network": "10.0.0.1"}},
            {"id": "x" * 65, "source": {"network": "10.0.0.1"}},
        )

        assert report.refused == {
            "exact": "duplicate",
            "late": "expired",
            "own": "own_flow",
            "wide": "in part: own_flow",
            "bad": "malformed",
            "#6": "malformed",
            "#7": "malformed",
        }
        assert report.actions == {"exact": {}, "wide": {}}
        assert report.trouble == ""


def test_a_report_is_made_when_something_changed_and_has_all_since_the_orders_came(bench: Bench) -> None:
    first = bench.order(1, EXACT)
    assert (first.mode, first.book, first.version, first.actions) == ("enforce", BOOK, 1, {"exact": {}})
    bench.turn()
    assert bench.reports() == []

    bench.show(TALK.packet())
    assert bench.order(2, EXACT).actions == {"exact": {"matched": 1, "sent_to_source": 1, "sent_to_destination": 1}}
    bench.show(TALK.back.packet())
    assert bench.order(3, EXACT).actions == {"exact": {"matched": 1, "sent_to_source": 2, "sent_to_destination": 2}}
    assert bench.order(4).actions == {}
    assert bench.awake == 0


def test_an_older_version_is_refused_and_the_counts_of_what_is_in_force_go_on(bench: Bench) -> None:
    bench.order(5, EXACT)
    bench.show(TALK.packet())
    report = bench.order(4, {"id": "late", "source": {"network": "10.9.9.9"}})

    assert (report.version, report.trouble) == (5, "version 4 came after version 5")
    assert report.actions == {"exact": {"matched": 1, "sent_to_source": 1, "sent_to_destination": 1}}
    bench.show(Talk(here="10.9.9.9").packet())
    assert len(bench.sockets.sent) == 2
    assert bench.order(6, EXACT).trouble == ""


def test_versions_of_another_book_begin_anew(bench: Bench) -> None:
    bench.order(5, EXACT)
    report = bench.order(1, {"id": "new", "source": {"network": "10.9.9.9"}}, book=OTHER_BOOK)

    assert (report.book, report.version, report.actions, report.trouble) == (OTHER_BOOK, 1, {"new": {}}, "")
    bench.show(TALK.packet(), Talk(here="10.9.9.9").packet())
    assert bench.sockets.sent == [("10.9.9.9", 0), (TALK.there, 0)]


@pytest.mark.parametrize(
    "text,why",
    [
        ('{"ahead_s": 0, "orders": {"book": "x", "version": 2, "actions": []}}', "the book has no name"),
        ('{"ahead_s": 0, "orders": {"book": "", "version": 2, "actions": [1]}}', "the actions are no list of objects"),
        ('{"ahead_s": NaN, "orders": {"book": "", "version": 2, "actions": []}}', "the time is none"),
        ('{"ahead_s": "0", "orders": {"book": "", "version": 2, "actions": []}}', "the time is none"),
        ('{"ahead_s": 0}', "no JSON of orders"),
        ("[" * 100_000, "no JSON of orders"),
        ("[]", "no JSON of orders"),
        ("", "no JSON of orders"),
    ],
)
def test_orders_that_cannot_be_read_leave_those_in_force(bench: Bench, text: str, why: str) -> None:
    bench.order(1, EXACT)
    bench.tell("orders", text)
    bench.turn()

    assert bench.reports()[-1].trouble == f"orders that cannot be read: {why}"
    bench.show(TALK.packet())
    assert len(bench.sockets.sent) == 2


def test_more_orders_than_may_be_leave_those_in_force(bench: Bench) -> None:
    bench.order(1, EXACT)
    report = bench.order(2, *({"id": str(n), "source": {"network": "10.9.9.9"}} for n in range(MAX_ACTIONS + 1)))

    assert (report.version, list(report.actions)) == (1, ["exact"])
    assert report.trouble == f"{MAX_ACTIONS + 1} orders, where {MAX_ACTIONS} are the most"


def hosts(count: int) -> list[dict[str, Any]]:
    return [{"id": str(n), "source": {"network": f"10.1.{n // 256}.{n % 256}", "port": 1 + n}} for n in range(count)]


def test_a_kernel_that_takes_short_programs_only_gets_more_of_them() -> None:
    with closing(Bench(longest_bytes=8 * 1024)) as bench:
        bench.attend("eth0")
        assert bench.order(1, *hosts(100)).trouble == ""
        assert bench.awake > 1


def test_filters_that_find_no_socket_are_trouble_that_lasts_while_they_do() -> None:
    with closing(Bench(watches=1, longest_bytes=8 * 1024)) as bench:
        bench.attend("eth0")
        trouble = bench.order(1, *hosts(100)).trouble
        assert trouble.endswith("filters find no socket")
        assert bench.awake == 1

        # The successor of an uploader tells the same again, which mends nothing; fewer orders do.
        bench.turn()
        assert bench.reports() == []
        bench.tell_orders(1, *hosts(100))
        bench.turn()
        assert [report.trouble for report in bench.reports()] == []
        assert bench.order(2, EXACT).trouble == ""


def test_a_kernel_that_takes_no_filter_is_trouble() -> None:
    with closing(Bench(longest_bytes=8)) as bench:
        bench.attend("eth0")
        report = bench.order(1, EXACT)

        assert report.trouble.startswith("filters of 1024 instructions: [Errno 12]")
        assert bench.awake == 0


def test_what_cannot_be_sent_is_told_and_is_not_counted_as_sent(bench: Bench) -> None:
    bench.order(1, EXACT)
    bench.sockets.error = OSError(errno.ENETUNREACH, "Network is unreachable")
    bench.show(TALK.packet())
    bench.attend("eth0", "eth1")
    bench.turn()
    report = bench.reports()[-1]
    assert report.trouble == f"a packet could not be sent to {TALK.there}: Network is unreachable"
    assert report.actions == {"exact": {"matched": 1, "refused_unsent": 2}}

    bench.sockets.error = None
    assert bench.order(2, EXACT).trouble == ""


def test_packets_that_found_no_room_are_told_at_the_vsensor_each_time_and_here_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.order(1, EXACT)
    said = []
    for dropped in (3, 4):
        bench.sockets.watches[0].dropped = dropped
        bench.attend("eth0", f"eth{dropped}")
        bench.turn()
        said.append(bench.reports()[-1].trouble)

    assert said == [f"{count} packets came too fast and were not seen" for count in (3, 7)]
    # Or whoever sends from many addresses that there is no route to would have a line for each.
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == ["Antigena, watching"]
    assert bench.order(2, EXACT).trouble == ""


def test_a_connection_is_asked_about_where_packets_found_no_room_and_not_taken_for_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossensor.antigena.watch.QUIET_S", 0.0)
    bench.order(1, EXACT)
    bench.show(TALK.packet("PA", 10))
    bench.sockets.watches[0].dropped = 1  # its acknowledgment
    bench.attend("eth0", "eth1")
    bench.turn()

    counts = bench.reports()[-1].actions["exact"]
    sent = {"matched": 1, "sent_to_source": 1, "sent_to_destination": 1}
    assert counts == sent | {"asked_source": 1, "asked_destination": 1, "unconfirmed": 1}


def test_it_ends_when_it_is_told_to_and_when_nobody_is_there_to_tell_it(bench: Bench) -> None:
    assert bench.turn() is Exit.DRAINED
    bench.ours.close()
    assert bench.turn() is Exit.GAVE_UP
