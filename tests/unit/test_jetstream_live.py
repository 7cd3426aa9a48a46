"""Sink and consumer against a real nats-server on loopback."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import ssl
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from nats.js.api import ConsumerConfig
from nats_server import NatsServer
from test_vsensor_kit import STREAM, committed, payload, section

from ossensor.errors import ConfigurationError
from ossensor.transport.protocol import Account, BatchId, Outcome
from ossensor.vsensor.files import Files
from ossensor.vsensor.index import Index
from ossensor.vsensor.jetstream import client, message
from ossensor.vsensor.jetstream import consumer as consumer_module
from ossensor.vsensor.jetstream import link as link_module
from ossensor.vsensor.jetstream.access import Access, add_arguments, parse
from ossensor.vsensor.jetstream.consumer import Consumer
from ossensor.vsensor.jetstream.link import Link
from ossensor.vsensor.jetstream.sink import Sink
from ossensor.vsensor.jetstream.terms import Terms
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.store import Append, Store

PARTITION = message.partition(STREAM)
SECTIONS = [section([payload(i)]) for i in range(12)]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a busy machine is slow to acknowledge is not delivered twice; what it was too slow to fetch comes again."""
    monkeypatch.setattr(consumer_module, "ACK_WAIT_S", 20.0)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as running:
        yield running


def batch(sequence: int, floor: int = 0) -> Append:
    return Append(BatchId(STREAM, sequence), floor, 1, SECTIONS[sequence], Account().text)


@asynccontextmanager
async def linked(
    server: NatsServer, section_bytes: int = 8 << 20, login: tuple[str, str] | None = None
) -> AsyncIterator[tuple[Link, Sink]]:
    """What one vSensor has."""
    link = Link(Access((server.url,), login=login), Terms(section_bytes, 1), lambda _: None)
    sink = Sink(link)
    task = asyncio.create_task(link.run(sink.listen))
    try:
        await asyncio.wait([task, asyncio.ensure_future(link.until_good())], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield link, sink
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConfigurationError):
            await task


async def messages(link: Link) -> int:
    return (await link.jetstream.stream_info(message.STREAM)).state.messages


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(200):
        while not what():  # noqa: ASYNC110 -- of nats-py's state nobody is told
            await asyncio.sleep(0.01)


async def drained(link: Link) -> None:
    async with asyncio.timeout(200):
        while await messages(link):  # noqa: ASYNC110 -- the server tells when it is asked
            await asyncio.sleep(0.02)


def made(root: Path) -> Layout:
    root.mkdir(exist_ok=True)
    return Layout(root)


@asynccontextmanager
async def consuming(link: Link, root: Path, name: str = "store") -> AsyncIterator[Counter[str]]:
    """A consumer of the partition, into the store at `root`, until the block ends; its tally."""
    layout = made(root)
    store = Store(layout, durable=False)
    store.start()
    tally: Counter[str] = Counter()
    stop = asyncio.Event()
    try:
        with closing(Index(layout.index, durable=False)) as index:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(Consumer(link, store, index, name, PARTITION, tally).run(stop.is_set))
                yield tally
                stop.set()
    finally:
        await asyncio.to_thread(store.close)


def gaps(root: Path) -> list[tuple[int, int]]:
    with closing(Index(root / "index.sqlite")) as index:
        return list(index._db.execute("SELECT * FROM gaps").fetchall())


def test_a_batch_is_in_the_stream_once_however_often_and_through_whichever_vsensor_it_comes(server: NatsServer) -> None:
    async def run() -> None:
        async with linked(server) as (link, one), linked(server) as (_, other):
            assert await one.append(batch(0)) is Outcome.STORED
            assert await one.append(batch(0)) is Outcome.PRESENT
            assert await other.append(batch(0)) is Outcome.PRESENT
            assert await messages(link) == 1

    asyncio.run(run())


def test_a_vsensor_hears_what_another_has_published(server: NatsServer) -> None:
    async def run() -> None:
        async with linked(server) as (_, one), linked(server) as (_, other):
            heard: list[BatchId] = []
            other.heard = heard.append
            assert other.next(STREAM) == 0
            await one.append(batch(0))
            await until(lambda: other.next(STREAM) == 1)
            assert heard == [BatchId(STREAM, 0)]
            assert one.next(STREAM) == 1

    asyncio.run(run())


def test_a_window_is_published_in_order_and_a_successor_of_what_failed_is_not(server: NatsServer) -> None:
    async def run() -> None:
        async with linked(server) as (link, sink):
            outcomes = await asyncio.gather(*(sink.append(batch(i)) for i in range(4)))
            assert outcomes == [Outcome.STORED] * 4
            server.kill()
            await until(lambda: not link.ready)
            outcomes = await asyncio.gather(*(sink.append(batch(i)) for i in (4, 5, 6)))
            assert outcomes == [Outcome.STORE_FAILED, Outcome.OUT_OF_ORDER, Outcome.OUT_OF_ORDER]
            assert sink.next(STREAM) == 4
            server.start()
            await until(lambda: link.ready)
            assert await sink.append(batch(4)) is Outcome.STORED
            assert await messages(link) == 5

    asyncio.run(run())


def test_a_late_copy_is_told_from_what_its_sensor_gave_up_and_asking_adds_nothing(server: NatsServer) -> None:
    async def run() -> None:
        async with linked(server) as (link, sink):
            await sink.append(batch(0))
            await sink.append(batch(2, floor=2))  # 1 was given up
            assert await sink.repeat(BatchId(STREAM, 0)) is Outcome.PRESENT
            assert await sink.repeat(BatchId(STREAM, 1)) is Outcome.MALFORMED
            assert await sink.repeat(BatchId(STREAM, 2)) is Outcome.PRESENT
            assert await messages(link) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    "more,section_bytes,refused",
    [("", 8 << 20, True), ("", 1 << 20, True), ("max_payload: 1100000", 1 << 20, False)],
)
def test_a_server_that_takes_smaller_messages_than_batches_may_need_is_refused_at_the_start(
    tmp_path: Path, more: str, section_bytes: int, *, refused: bool
) -> None:
    async def run(server: NatsServer) -> None:
        async with linked(server, section_bytes) as (_, sink):
            assert await sink.append(batch(0)) is Outcome.STORED

    with NatsServer(tmp_path / "nats", more) as server:
        if not refused:
            asyncio.run(run(server))
            return
        with pytest.raises(ConfigurationError, match="max_payload of the NATS server is 1,048,576 bytes"):
            asyncio.run(run(server))


def test_what_was_published_is_stored_byte_for_byte_and_leaves_the_stream(server: NatsServer, tmp_path: Path) -> None:
    async def run() -> None:
        async with linked(server) as (link, sink):
            for i in range(10):
                await sink.append(batch(i, floor=i))
            async with consuming(link, tmp_path / "store") as tally:
                await drained(link)
        assert tally == {"stored": 10}

    asyncio.run(run())

    assert committed(tmp_path / "store") == SECTIONS[:10]
    assert gaps(tmp_path / "store") == []


def test_what_a_dead_consumer_had_in_hand_is_stored_in_its_place_though_its_successors_come_first(
    server: NatsServer, tmp_path: Path
) -> None:
    """The floors say that all of it is settled: at the stream, which is not the store.

    The server gives them out again when the dead one's time for an acknowledgement is up; here, when it is told to.
    """

    async def run() -> Counter[str]:
        async with linked(server) as (link, sink):
            for i in range(4):
                await sink.append(batch(i, floor=i))
            async with consuming(link, tmp_path / "store") as tally:
                await drained(link)
            for i in range(4, 7):
                await sink.append(batch(i, floor=i))
            subject, name = message.subject(PARTITION), f"store-{PARTITION}"
            dead = await link.jetstream.pull_subscribe(subject, name, message.STREAM, ConsumerConfig())
            in_hand = await dead.fetch(3)
            assert len(in_hand) == 3
            for i in range(7, 12):
                await sink.append(batch(i, floor=i))
            async with consuming(link, tmp_path / "store") as tally:
                await until(lambda: tally["out-of-order"] > 0)
                for each in in_hand:
                    await each.nak()
                await drained(link)
            return tally

    tally = asyncio.run(run())

    print(dict(tally))
    assert tally["stored"] == 8
    assert tally["out-of-order"] > 0
    assert tally.keys() <= {"stored", "out-of-order"}
    assert committed(tmp_path / "store") == SECTIONS
    assert gaps(tmp_path / "store") == []


def test_what_was_committed_and_not_acknowledged_is_stored_once(server: NatsServer, tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()

    async def run() -> Counter[str]:
        async with linked(server) as (link, sink):
            store = Store(Layout(root), durable=False)
            store.start()
            for i in range(3):
                await sink.append(batch(i))
                store.append(batch(i)).result()
            await asyncio.to_thread(store.close)
            async with consuming(link, root) as tally:
                await drained(link)
            return tally

    assert asyncio.run(run()) == {"present": 3}
    assert committed(root) == SECTIONS[:3]


def test_what_the_disk_does_not_take_stays_in_the_stream_until_it_does(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if full:
            raise OSError(errno.ENOSPC, "no space left")
        return os.pwrite(fd, data, offset)

    monkeypatch.setattr(Files, "_pwrite", staticmethod(pwrite))

    async def run() -> Counter[str]:
        nonlocal full
        async with linked(server) as (link, sink):
            for i in range(6):
                await sink.append(batch(i))
            async with consuming(link, tmp_path / "store") as tally:
                await until(lambda: tally["store-failed"] >= 8)
                assert await messages(link) == 6
                full = False
                await drained(link)
            return tally

    tally = asyncio.run(run())

    assert tally["stored"] == 6
    assert committed(tmp_path / "store") == SECTIONS[:6]
    assert gaps(tmp_path / "store") == []


@pytest.mark.parametrize("first_store", ["same", "other"])
def test_a_batch_whose_predecessor_will_never_come_is_stored_behind_a_gap(
    server: NatsServer, tmp_path: Path, first_store: str
) -> None:
    """Because its sensor gave it up, or because it went to another store."""

    async def run() -> None:
        async with linked(server) as (link, sink):
            for i in range(3):
                await sink.append(batch(i))
            async with consuming(link, tmp_path / first_store):
                await drained(link)
            await sink.append(batch(5, floor=5))
            await sink.append(batch(6, floor=5))
            async with consuming(link, tmp_path / "same") as tally:
                await drained(link)
        assert tally["stored"] == 2

    asyncio.run(run())

    before = SECTIONS[:3] if first_store == "same" else []
    assert committed(tmp_path / "same") == [*before, SECTIONS[5], SECTIONS[6]]
    assert [tuple(gap[-2:]) for gap in gaps(tmp_path / "same")] == [(3, 2) if before else (0, 5)]


@pytest.mark.parametrize("removed", ["consumer", "stream"])
def test_a_consumer_that_somebody_removed_beside_it_is_made_again(
    server: NatsServer, tmp_path: Path, removed: str
) -> None:
    async def run() -> Counter[str]:
        async with linked(server) as (link, sink):
            await sink.append(batch(0))
            async with consuming(link, tmp_path / "store") as tally:
                await drained(link)
                if removed == "consumer":
                    await link.jetstream.delete_consumer(message.STREAM, f"store-{PARTITION}")
                else:
                    await link.jetstream.delete_stream(message.STREAM)
                    async with linked(server):
                        pass
                await sink.append(batch(1))
                await drained(link)
            return tally

    assert asyncio.run(run()) == {"stored": 2}


def test_what_was_put_back_is_forgotten_with_the_subscription_that_it_came_by() -> None:
    """Places of a stream made anew begin at 1: with one of the old stream's, no orphan was ever known again."""
    link: Any = MagicMock(until_good=AsyncMock(), jetstream=MagicMock(pull_subscribe=AsyncMock()))
    consumer = Consumer(link, MagicMock(), MagicMock(), "store", PARTITION, Counter())
    consumer._put_back.put(5001, BatchId(STREAM, 7))
    stops = iter([False, True, True])
    asyncio.run(consumer.run(lambda: next(stops)))

    assert not consumer._put_back


def test_a_client_that_closed_without_a_word_is_followed_by_another(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nats-py's does when a server refuses it while it still sends: no callback is called."""
    monkeypatch.setattr(link_module, "_ASK_S", 0.05)
    said: list[str] = []

    async def run() -> None:
        link = Link(Access((server.url,)), Terms(8 << 20, 1), said.append)
        task = asyncio.create_task(link.run(nothing))
        await link.until_good()
        link.client._status = client.Client.CLOSED
        await until(lambda: len([line for line in said if line.startswith("connected to")]) == 2)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())


def test_a_message_that_no_vsensor_published_is_counted_and_taken_out(server: NatsServer, tmp_path: Path) -> None:
    async def run() -> Counter[str]:
        async with linked(server) as (link, sink):
            await link.jetstream.publish(message.subject(PARTITION), b"not a section")
            forged = {**message.headers(batch(0)), message.ID: "another"}
            await link.jetstream.publish(message.subject(PARTITION), SECTIONS[0], headers=forged)
            await sink.append(batch(0))
            async with consuming(link, tmp_path / "store") as tally:
                await drained(link)
            return tally

    assert asyncio.run(run()) == {"malformed": 2, "stored": 1}


def test_a_server_is_reached_by_tls_with_a_certificate_of_ours_and_a_login_and_not_without(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    # Not the vSensor's: that one is for servers only, and here it is the client's, too.
    subject = ["-subj", "/CN=nats.test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(["openssl", "req", "-x509", *curve, *subject, "-keyout", key, "-out", cert], check=True)
    files = f'cert_file: "{cert}", key_file: "{key}", ca_file: "{cert}"'
    login = tmp_path / "login"
    login.write_text("me:secret")
    login.chmod(0o600)
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    def reached(server: NatsServer, *options: str) -> Access:
        faults: list[str] = []
        found = parse("URL", server.url, parser.parse_args(options), faults)
        assert faults == []
        return found

    async def said(access: Access) -> str:
        """The first thing that is said of the connection."""
        first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        link = Link(access, Terms(8 << 20, 1), lambda what: None if first.done() else first.set_result(what))
        task = asyncio.create_task(link.run(Sink(link).listen))
        try:
            return await asyncio.wait_for(first, 120)
        finally:
            task.cancel()
            await asyncio.wait([task])

    more = f"max_payload: 9MB\nauthorization {{ user: me, password: secret }}\ntls {{ {files}, verify: true }}"
    ca, mine = ("--nats-ca", str(cert)), ("--nats-cert", str(cert), "--nats-key", str(key))
    me = ("--nats-login-file", str(login))
    with NatsServer(tmp_path / "nats", more) as server:
        ways = [(*ca, *mine, *me), (*ca, *mine), (*ca, *me), me]
        heard = [asyncio.run(said(reached(server, *way))) for way in ways]
    # One that does not insist on it; that it was used is in its log alone.
    for_both = f"max_payload: 9MB\ndebug: true\nallow_non_tls: true\ntls {{ {files} }}"
    with NatsServer(tmp_path / "both", for_both) as other:
        assert "connected" in asyncio.run(said(reached(other, *ca)))
    assert "TLS handshake complete" in (tmp_path / "both" / "log").read_text()

    print(heard)
    assert heard[0].startswith(f"connected to 127.0.0.1:{server.port}")
    assert [one for one in heard if "connected" in one] == heard[:1]
    assert "Authorization" in heard[1]


def test_a_server_that_comes_back_without_its_files_has_a_stream_again(server: NatsServer, tmp_path: Path) -> None:
    async def run() -> None:
        async with linked(server) as (link, sink):
            assert await sink.append(batch(0)) is Outcome.STORED
            server.kill()
            await until(lambda: not link.ready)
            shutil.rmtree(tmp_path / "nats" / "jetstream")
            server.start()
            await until(lambda: link.ready)
            assert await sink.append(batch(1)) is Outcome.STORED

    asyncio.run(run())


def test_a_consumer_that_is_shut_out_while_there_is_no_stream_yet_comes_again(tmp_path: Path) -> None:
    """nats-py closes for good what a server sends away: here for another password, elsewhere for a JWT that is over."""
    said: list[str] = []
    users = "users: [ { user: vsensor, password: one }, { user: consumer, password: two } ]"

    def reload(server: NatsServer, old: str, new: str) -> None:
        configuration = tmp_path / "nats" / "server.conf"
        configuration.write_text(configuration.read_text().replace(old, new))
        server.process.send_signal(signal.SIGHUP)

    async def run(server: NatsServer) -> None:
        link = Link(Access((server.url,), login=("consumer", "two")), None, said.append)
        task = asyncio.create_task(link.run(nothing))
        await until(lambda: any("stream not found" in line for line in said))
        reload(server, "two", "three")
        await until(lambda: "the connection is gone; sensors keep their batches" in said)
        reload(server, "three", "two")
        async with linked(server, login=("vsensor", "one")):
            await until(lambda: link.ready)
            task.cancel()
            await asyncio.wait([task])

    with NatsServer(tmp_path / "nats", f"max_payload: 9MB\nauthorization {{ {users} }}") as server:
        asyncio.run(run(server))


def test_a_server_that_stands_still_with_batches_on_their_way_to_it_is_left_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed one resets the connection; of this one only the kernel answers, and of a host that is down, nobody."""
    monkeypatch.setattr(client, "GIVEN_UP_MS", 1000)
    monkeypatch.setattr(link_module, "_API_S", 2)
    big = replace(batch(0), section=bytes(4 << 20))

    async def run(*servers: NatsServer) -> None:
        said: list[str] = []
        link = Link(Access(tuple(each.url for each in servers)), Terms(8 << 20, 1), said.append)
        sink = Sink(link)
        task = asyncio.create_task(link.run(sink.listen))
        await link.until_good()
        (first,) = (line for line in said if line.startswith("connected to"))
        (still,) = (each for each in servers if str(each.port) in first)
        (other,) = (each for each in servers if each is not still)
        for each in servers:
            each.process.send_signal(signal.SIGSTOP)
        streams = [STREAM._replace(interface=f"e{i}") for i in range(8)]
        sent = [sink.append(replace(big, batch=BatchId(stream, 0))) for stream in streams]
        assert set(await asyncio.gather(*sent)) == {Outcome.STORE_FAILED}
        other.process.send_signal(signal.SIGCONT)
        await until(lambda: link.ready and any(str(other.port) in line for line in said))
        async with asyncio.timeout(120):
            while await sink.append(batch(0)) is not Outcome.STORED:
                pass  # a busy machine may be slower than _API_S
        task.cancel()
        await asyncio.wait([task])

    with NatsServer(tmp_path / "one") as one, NatsServer(tmp_path / "two") as two:
        asyncio.run(run(one, two))


@pytest.mark.parametrize("scheme", ["nats", "tls"])
def test_a_server_without_tls_is_told_no_password_where_tls_was_asked_for(tmp_path: Path, scheme: str) -> None:
    """Or whoever stands between says that there is none. nats-py goes by that, by itself."""
    said: list[str] = []
    authorities = ssl.create_default_context()

    async def run(server: NatsServer) -> None:
        url = server.url.replace("nats", scheme)
        link = Link(Access((url,), authorities, login=("me", "secret")), Terms(8 << 20, 1), said.append)
        task = asyncio.create_task(link.run(nothing))
        await until(lambda: "nats: secure connection not available" in said)
        task.cancel()
        await asyncio.wait([task])

    with NatsServer(
        tmp_path / "nats", "max_payload: 9MB\nauthorization { user: me, password: secret }\ntrace: true"
    ) as server:
        asyncio.run(run(server))
    assert "CONNECT" not in (tmp_path / "nats" / "log").read_text()


def test_users_with_the_rights_of_the_page_and_no_more_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scale-out.md").read_text()
    (rights,) = re.findall(r"^authorization \{\n.*?^\}$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setenv("VSENSOR", "one")
    monkeypatch.setenv("CONSUMER", "two")

    async def run(server: NatsServer) -> None:
        async with linked(server, login=("vsensor", "one")) as (link, sink):
            for i in range(3):
                assert await sink.append(batch(i)) is Outcome.STORED
            # No terms: as `ossensor consume` looks at the stream.
            consumer = Link(Access((server.url,), login=("consumer", "two")), None, lambda _: None)
            task = asyncio.create_task(consumer.run(nothing))
            await consumer.until_good()
            async with consuming(consumer, tmp_path / "store") as tally:
                await drained(link)
            task.cancel()
            await asyncio.wait([task])
        assert tally == {"stored": 3}

    with NatsServer(tmp_path / "nats", f"max_payload: 9MB\n{rights}") as server:
        asyncio.run(run(server))
    assert "Violation" not in (tmp_path / "nats" / "log").read_text()


async def nothing() -> None: ...


def test_consumers_of_two_names_cannot_share_a_partition(server: NatsServer, tmp_path: Path) -> None:
    async def run() -> None:
        async with linked(server) as (link, sink):
            await sink.append(batch(0))
            async with consuming(link, tmp_path / "one"):
                await drained(link)
            async with consuming(link, tmp_path / "two", "another"):
                await drained(link)

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(run())
    assert raised.group_contains(ConfigurationError, match="has a consumer of another --name")
