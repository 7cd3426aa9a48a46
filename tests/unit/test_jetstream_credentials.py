"""A .creds file: read, refused without showing it, and taken as trouble while it is being renewed."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import nats_identities
import pytest
from nats_server import NatsServer

from ossensor.vsensor.jetstream import message
from ossensor.vsensor.jetstream.access import Access
from ossensor.vsensor.jetstream.credentials import Credentials, parse
from ossensor.vsensor.jetstream.link import Link
from ossensor.vsensor.jetstream.terms import Terms

IDENTITIES = nats_identities.make()
WITHOUT_SEED = IDENTITIES.file.partition("*")[0]
SHORT_SEED = IDENTITIES.file.replace(IDENTITIES.seed, IDENTITIES.seed[:-1])


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_jwt_and_seed_are_found_however_lines_end(line_end: str) -> None:
    found = parse(IDENTITIES.file.replace("\n", line_end))

    assert found.splitlines()[1::2] == [IDENTITIES.jwt, IDENTITIES.seed]


@pytest.mark.parametrize(
    "text,reason",
    [
        ("", "no user's JWT in it"),
        (IDENTITIES.file.replace(IDENTITIES.jwt, "not.one"), "no user's JWT in it"),
        (WITHOUT_SEED, "no user's seed in it"),
        (SHORT_SEED, "no user's seed in it"),
        (IDENTITIES.file.replace(IDENTITIES.seed, "SA" + IDENTITIES.seed[2:]), "no user's seed in it"),  # an account's
        (IDENTITIES.file.replace(IDENTITIES.seed, "SUZ" + IDENTITIES.seed[3:]), "no user's seed in it"),  # nobody's
        (IDENTITIES.file[: -len("\n------END USER NKEY SEED------\n\n")], "no user's seed in it"),  # half written
    ],
)
def test_what_is_not_whole_is_refused_with_a_reason_that_shows_none_of_it(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        parse(text)


def test_nats_py_is_told_of_trouble_and_no_repr_shows_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    credentials = Credentials(str(path))

    def refuses(why: str) -> None:
        with pytest.raises(OSError, match=re.escape(f"--nats-creds: {path}: {why}") + "$"):
            _ = credentials.data

    refuses("No such file or directory")
    path.write_bytes(b"\xff")
    refuses("not text")
    path.write_text(WITHOUT_SEED)
    refuses("no user's seed in it")
    path.write_text(IDENTITIES.file)

    assert credentials.data == parse(IDENTITIES.file)
    assert repr(credentials) == f"Credentials('{path}')"


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(200):
        while not what():  # noqa: ASYNC110 -- of nats-py's state nobody is told
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("meanwhile", ["", SHORT_SEED], ids=["empty", "short"])
def test_a_server_that_asks_for_a_jwt_is_connected_again_though_the_file_was_being_renewed(
    tmp_path: Path, meanwhile: str
) -> None:
    """By itself, nats-py reads the empty file for ever, and of the seed's error nobody hears."""
    path = tmp_path / "creds"
    path.write_text(IDENTITIES.file)
    said: list[str] = []

    async def nothing() -> None:
        return

    async def run(server: NatsServer) -> None:
        link = Link(Access((server.url,), credentials=str(path)), Terms(1 << 20, 1), said.append)
        running = asyncio.create_task(link.run(nothing))
        await until(lambda: link.ready)
        assert (await link.jetstream.stream_info(message.STREAM)).state.messages == 0
        server.kill()
        await until(lambda: not link.ready)
        path.write_text(meanwhile)
        server.start()
        await until(lambda: any(str(path) in line for line in said))
        path.write_text(IDENTITIES.file)
        await until(lambda: link.ready)
        assert (await link.jetstream.stream_info(message.STREAM)).state.messages == 0
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    with NatsServer(tmp_path / "nats", IDENTITIES.configuration) as server:
        asyncio.run(run(server))
