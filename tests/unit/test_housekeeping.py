"""The housekeeping of a running vSensor: janitors that are killed, and what people are told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from filled_store import EPOCH, START_NS, fill, made, opened
from test_extract import Extracted
from test_retention import files
from test_vsensor_kit import STREAM
from test_vsensor_kit_process import Process, sensor

from ossensor import cli
from ossensor.backoff import Backoff
from ossensor.transport.protocol import FIELD_BOOKS, Account, BatchId, Outcome, Stream
from ossensor.vsensor.housekeeping import Housekeeping
from ossensor.vsensor.retention import Doomed
from ossensor.vsensor.section import span
from ossensor.vsensor.store import Append, Store
from ossensor.vsensor.tidying import Tidied


class Heard:
    """What was told."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.troubles: list[str] = []

    def removed(self, doomed: Doomed) -> None:
        raise AssertionError(doomed)

    def packed(self, file: str, _: int) -> None:
        self.files.append(file)

    def trouble(self, what: str) -> None:
        self.troubles.append(what)


def heavy(store: Store, count: int) -> None:
    """Files of half a mebibyte that is hard work for a compressor."""
    data = random.Random(3).randbytes(60_000)
    for n in range(count):
        body = made("eth0", [(START_NS + 10 * n + i, data[i:] + data[:i]) for i in range(8)])
        append = Append(BatchId(Stream("a", EPOCH, "eth0"), n), 0, 8, body, None, span(body))
        assert store.append(append).result(120) is Outcome.STORED


def janitors() -> list[int]:
    """Process ids of this process's janitors."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended, or a process
            found += filter(_is_janitor, map(int, (task / "children").read_text().split()))
    return found


def _is_janitor(pid: int) -> bool:
    return b"ossensor.vsensor.janitor" in Path(f"/proc/{pid}/cmdline").read_bytes()


def packed(root: Path) -> bool:
    return all(file.endswith(".zst") for file in files(root))


def hurried() -> list[int]:
    """The same, after they were told to run like anybody else, as far as one may tell them.

    They step back behind everybody, and where other tests have the processors it may be minutes until nobody wants one.
    """
    found = janitors()
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
    return found


def size_bytes(root: Path) -> int:
    """Of the files in the store, which come and go meanwhile."""
    found = 0
    for path in root.glob("*/*/*"):
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


async def until(true: Callable[[], Any]) -> Any:
    async with asyncio.timeout(400):
        while not (found := true()):  # noqa: ASYNC110  neither the kernel's table of processes nor a folder rings
            await asyncio.sleep(0.01)
    return found


def test_janitors_killed_at_moments_of_their_own_lose_and_double_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSENSOR_HMAC_KEY", "a secret")
    seed = random.SystemRandom().randrange(2**32)
    moments = random.Random(seed)
    root, heard, seen = tmp_path / "s", Heard(), []
    with closing(opened(root, rotate_bytes=1)) as filling:
        heavy(filling, 120)
    before = Extracted(root, tmp_path).packets

    async def act() -> None:
        house = Housekeeping(store, root, heard, compress=True, turn_s=0.01, backoff=Backoff(cap_s=0.02))
        running = asyncio.create_task(house.run())
        while len(seen) < 10 and (found := await until(lambda: janitors() or packed(root))) is not True:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it had come to its end
                seen.append((Path("/proc") / str(found[0]) / "environ").read_bytes())
                if len(seen) > 1:  # the first at once: it has everything before it, and dies of this
                    await asyncio.sleep(moments.random() * 0.2)
                os.kill(found[0], signal.SIGKILL)
            await until(lambda: janitors() != found)
        await until(lambda: hurried() is not None and packed(root))
        running.cancel()
        await asyncio.wait([running])

    with closing(opened(root)) as store:
        asyncio.run(act())
    capsys.readouterr()
    audit = cli.main(["audit", str(root), "--deep"])
    strangers = capsys.readouterr().err
    print(f"seed {seed}: {len(seen)} janitors seen, {len(heard.troubles)} died, {len(set(heard.files))} files told")

    assert (Extracted(root, tmp_path).packets, audit, strangers) == (before, 0, "")
    assert len(files(root)) == 120
    assert heard.troubles  # one at least died of it
    assert len(heard.files) == len(set(heard.files))
    assert not any(b"secret" in environ for environ in seen)
    assert janitors() == []


class Tidies:
    """A store whose turns find what they are given."""

    def __init__(self, *found: Tidied) -> None:
        self.found = list(found)

    def tidy(self) -> Future[Tidied]:
        turn: Future[Tidied] = Future()
        turn.set_result(self.found.pop(0))
        return turn


def test_turns_that_follow_one_another_are_all_told(tmp_path: Path) -> None:
    removed = [Doomed(f"f{n}", 1, "age") for n in range(2)]
    heard = Heard()
    told: list[Doomed] = []
    heard.removed = told.append
    store = Tidies(Tidied([removed[0]], more=True), Tidied([removed[1]], ["packable"], more=True), Tidied())
    house = Housekeeping(cast("Store", store), tmp_path, heard, compress=False)
    asyncio.run(house._turn())

    assert (told, house._packable, store.found) == (removed, ["packable"], [])


def test_what_a_janitor_cannot_compress_is_told_and_the_others_are_compressed(tmp_path: Path) -> None:
    root, heard = tmp_path / "s", Heard()
    with closing(opened(root, rotate_bytes=1)) as filling:
        fill(filling, "a", "eth0", 3)
    first, *others = files(root)
    (root / f"{first}.zst.part").mkdir()  # in its way

    async def act() -> None:
        house = Housekeeping(store, root, heard, compress=True, turn_s=0.01)
        running = asyncio.create_task(house.run())
        await until(lambda: heard.troubles and len(heard.files) == 2)
        running.cancel()
        await asyncio.wait([running])

    with closing(opened(root)) as store:
        asyncio.run(act())

    assert heard.files == others
    assert heard.troubles[0].startswith(f"cannot compress {first}: [Errno 21] Is a directory")


def test_without_a_process_or_a_thread_for_a_janitor_the_next_pass_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, heard = tmp_path / "s", Heard()
    with closing(opened(root, rotate_bytes=1)) as filling:
        fill(filling, "a", "eth0", 3)
    real = asyncio.create_subprocess_exec
    refusals = [OSError(errno.EAGAIN, "no process"), RuntimeError("can't start new thread")]

    async def start(*arguments: Any, **options: Any) -> Any:
        if refusals:
            raise refusals.pop(0)
        return await real(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)

    async def act() -> None:
        house = Housekeeping(store, root, heard, compress=True, turn_s=0.01, backoff=Backoff(cap_s=0.02))
        running = asyncio.create_task(house.run())
        await until(lambda: running.done() or packed(root))
        running.cancel()
        await asyncio.wait([running])

    with closing(opened(root)) as store:
        asyncio.run(act())

    assert packed(root)
    assert heard.troubles == [
        "no janitor can be started: [Errno 11] no process",
        "no janitor can be started: can't start new thread",
    ]


def test_a_running_vsensor_compresses_and_removes_and_says_so(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=1)) as filling:
        fill(filling, "a", "eth0", 3)
        first, second, third = files(root)
        filling._index._db.execute("UPDATE files SET received_ns = 1 WHERE file = ?", (first,))

    with Process(root, "--compress-closed", "--keep-days", "1000", "--rotate-minutes", "1") as vsensor:
        packed = [vsensor.wait_for("packed", n)["file"] for n in (1, 2)]
        removed = vsensor.wait_for("removed")
        code = vsensor.stop()

    assert (packed, code, vsensor.stderr) == ([second, third], 0, b"")
    assert (removed["file"], removed["why"]) == (first, "age")
    assert files(root) == [f"{second}.zst", f"{third}.zst"]


def test_a_janitor_steps_back_behind_everybody(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ossensor.vsensor.janitor", str(tmp_path), str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as janitor:
        asyncio.run(until(lambda: os.sched_getscheduler(janitor.pid) == os.SCHED_IDLE))
        janitor.communicate()

    assert janitor.returncode == 0


def now() -> int:
    return int(time.time())


def test_a_vsensor_that_rotates_compresses_removes_and_is_killed_has_every_batch_in_its_books(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With six kills of the serving process; each batch ends up stored or removed, once."""
    root = tmp_path / "s"
    options = ("--rotate-mb", "1", "--keep-gb", "0.004", "--compress-closed")
    seed = random.SystemRandom().randrange(2**32)
    moments = random.Random(seed)
    outcomes, kills = [], 0

    def body(n: int) -> tuple[bytes, dict[str, str]]:
        packets = [(START_NS + 10 * n + i, moments.randbytes(50_000)) for i in range(8)]
        account = Account(first_packet=8 * n, received=8 * (n + 1), final=int(n == 59))
        return made("eth0", packets, received=8 * (n + 1)), {FIELD_BOOKS: account.text}

    with Process(root, *options) as vsensor:
        address = vsensor.wait_for("listening")["address"]
        with sensor(address, root / "tls" / "cert.pem") as one:
            for n in range(60):
                section, fields = body(n)
                outcomes.append(one.deliver(n, section, created=now, packets="8", stream=STREAM, fields=fields))
                if n % 10 == 5:
                    time.sleep(moments.random() / 4)
                    os.kill(vsensor.all("serving")[-1]["pid"], signal.SIGKILL)
                    kills += 1
                    vsensor.wait_for("serving", kills + 1)
        vsensor.stop()
    with Process(root, *options) as vsensor:  # its first look finds everything closed
        asyncio.run(until(lambda: size_bytes(root) < 4_294_968))
        vsensor.stop()

    code = cli.main(["audit", str(root), "--deep", "--json"])
    told = capsys.readouterr()
    (audited,) = json.loads(told.out)
    finding = audited["finding"]
    counts = finding["batches"], finding["removed_batches"]
    print(f"seed {seed}, {kills} kills: {counts} batches stored and removed")

    assert set(outcomes) <= {Outcome.STORED, Outcome.PRESENT}
    assert (code, audited["verdict"], told.err) == (0, "balanced", "")
    assert finding["batches"] + finding["removed_batches"] == 60
    assert finding["packets"] + finding["removed_packets"] == 480
    assert finding["removed_batches"] >= 49  # 24 MB came, 4.3 may stay
