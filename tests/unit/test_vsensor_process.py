"""`ossensor vsensor` as processes: killed, stopped, misconfigured, and what it says meanwhile."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import test_vsensor_kit_process
from test_vsensor_kit import (
    EPOCH,
    KEY,
    STREAM,
    Signer,
    Wire,
    committed,
    eventually,
    payload,
    section,
    split,
    stored,
)
from test_vsensor_kit_process import Process, sensor

from ossensor.errors import Exit
from ossensor.transport.protocol import FIELD_CERTIFICATE, Outcome, Stream
from ossensor.vsensor import certificate

SEED = 20261123


def now() -> int:
    return int(time.time())


@pytest.mark.slow
def test_every_batch_is_stored_once_and_whole_when_the_server_is_killed_at_random_moments(tmp_path: Path) -> None:
    """200 batches of 2 interfaces, 4 in flight each; the serving process is killed 10 times on the way."""
    generator = random.Random(SEED)
    streams = [STREAM, Stream("sensor-1", EPOCH, "eth1")]
    bodies = {
        (stream, i): section([payload(i, generator.randint(14, 60_000)) for _ in range(generator.randint(1, 3))])
        for stream in streams
        for i in range(100)
    }
    kill_at = sorted(generator.sample(range(5, 195), 10))
    delays_s = [generator.random() * 0.01 for _ in kill_at]
    acknowledged: list[Outcome] = []
    news = threading.Condition()

    with Process(tmp_path) as process, ExitStack() as sensors:
        listening = process.wait_for("listening")
        ca = Path(listening["certificate"])

        def lane(stream: Stream, first: int) -> int:
            run = f"{streams.index(stream) * 4 + first:032x}"
            one = sensors.enter_context(sensor(listening["address"], ca, run=run))
            for sequence in range(first, 100, 4):
                outcome = one.deliver(sequence, bodies[stream, sequence], created=now, stream=stream)
                with news:
                    acknowledged.append(outcome)
                    news.notify_all()
            return one.attempts

        with ThreadPoolExecutor(8) as pool:
            lanes = [pool.submit(lane, stream, first) for stream in streams for first in range(4)]
            for kills, (count, delay_s) in enumerate(zip(kill_at, delays_s, strict=True), 1):
                with news:
                    assert news.wait_for(lambda count=count: len(acknowledged) >= count, timeout=120)
                pid = process.wait_for("serving", kills)["pid"]
                threading.Event().wait(delay_s)  # part of the input: where in a request the kill falls
                os.kill(pid, signal.SIGKILL)
            attempts = sum(lane.result(120) for lane in lanes)
        process.wait_for("serving", 11)
        code = process.stop()
        restarts = process.all("restarting")
        recovered = process.all("recovered")

    print(
        f"seed {SEED}: {attempts} attempts, {acknowledged.count(Outcome.PRESENT)} present, {len(recovered)} recoveries"
    )
    assert code == Exit.DRAINED
    assert [r["why"] for r in restarts] == ["was ended by SIGKILL"] * 10
    assert len(acknowledged) == 200
    assert attempts > 200
    for stream in streams:
        expected = [bodies[stream, i] for i in range(100)]
        assert stored(tmp_path, stream.sensor, stream.interface) == expected
    assert committed(tmp_path) == [bodies[stream, i] for stream in streams for i in range(100)]


def test_a_killed_server_costs_connections_and_not_the_port(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        listening = process.wait_for("listening")
        port = int(listening["address"].rpartition(":")[2])
        os.kill(process.wait_for("serving")["pid"], signal.SIGKILL)
        refused = 0
        with ExitStack() as connections:
            while len(process.all("serving")) < 2:
                try:
                    connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=120))
                except OSError:
                    refused += 1

    assert refused == 0


def test_sigterm_and_sigint_end_it_with_everything_in_hand_answered(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        root = tmp_path / number.name
        with Process(root) as process:
            listening = process.wait_for("listening")
            process.wait_for("serving")
            address, ca = listening["address"], Path(listening["certificate"])
            with sensor(address, ca) as one:
                one.deliver(0, section([payload(0)]), created=now)  # past the second of the start
            message = Signer(address, run="1" * 32).message(1, created_s=now())
            message.fields.append(("Expect", "100-continue"))
            wire = Wire(int(address.rpartition(":")[2]), ca)
            with wire.connect() as connection:
                connection.sendall(wire.head(message))
                assert connection.recv(1024) == b"HTTP/1.1 100 \r\n\r\n"  # it is in hand
                connection.sendall(message.body[:-1])
                process.process.send_signal(number)
                connection.sendall(message.body[-1:])
                status = connection.recv(65536).split(b"\r\n")[0]
            code = process.stop(number)  # within a time that is shorter than the grace (test_vsensor_kit_process.py)

        assert status == b"HTTP/1.1 201 Created"
        assert code == Exit.DRAINED
        assert stored(root) == [section([payload(0)]), section([payload(1)])]


def test_a_connection_that_is_kept_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        listening = process.wait_for("listening")
        with sensor(listening["address"], Path(listening["certificate"])) as one:
            one.deliver(0, section([payload(0)]), created=now)
            code = process.stop()  # within a time that is shorter than the grace (test_vsensor_kit_process.py)

    assert code == Exit.DRAINED


def test_the_server_dies_with_its_keeper(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        pidfd = os.pidfd_open(process.wait_for("serving")["pid"])
        try:
            killed = process.stop(signal.SIGKILL)
            ended, _, _ = select.select([pidfd], [], [], 120)  # readable once the process is dead
        finally:
            os.close(pidfd)

    assert killed == -signal.SIGKILL
    assert ended == [pidfd]


def test_a_crash_loop_is_slowed_down_and_a_stop_ends_it_at_once() -> None:
    driver = """
import sys
from ossensor.backoff import Backoff
from ossensor.vsensor.keeper import Job, Keeper
def say(what, pid, why, delay_s):
    print(why, round(delay_s, 3), flush=True)
class Full:
    def random(self): return 1.0
sys.exit(Keeper([Job("serving", lambda: 3, Backoff(cap_s=0.4, rng=Full()))], say).run())
"""
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(4)]
        process.terminate()
        code = process.wait(120)

    assert lines == [f"ended with code 3 {d}" for d in (0.1, 0.2, 0.4, 0.4)]
    assert code == Exit.DRAINED


def test_a_process_that_is_not_to_be_had_is_tried_again_and_ends_nobody() -> None:
    driver = """
import errno, os, signal, sys
from ossensor.backoff import Backoff
from ossensor.vsensor.keeper import Job, Keeper
def say(what, pid, why, delay_s):
    print(pid, why, round(delay_s, 3), flush=True)
def serve():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    print("serves", flush=True)
    signal.sigwait({signal.SIGTERM})
    return 0
class Full:
    def random(self): return 1.0
real, refusals = os.fork, [errno.EAGAIN, errno.ENOMEM]
def fork():  # as the pids limit and a kernel short of memory have it
    if refusals:
        raise OSError(refusals.pop(0), "no process to be had")
    return real()
os.fork = fork
sys.exit(Keeper([Job("serving", serve, Backoff(base_s=0.01, rng=Full()), vital=True)], say).run())
"""
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(3)]
        process.terminate()
        code = process.wait(120)

    assert lines == [*(f"0 could not be started (no process to be had) {d}" for d in (0.01, 0.02)), "serves"]
    assert code == Exit.DRAINED


def test_a_child_that_was_killed_at_its_work_has_a_successor_soon_however_often() -> None:
    driver = """
import os, signal, sys, time
from ossensor.backoff import Backoff
from ossensor.vsensor.keeper import _SERVED_S, Job, Keeper
def say(what, pid, why, delay_s):
    print(why, delay_s, flush=True)
def serve():
    time.sleep(_SERVED_S * 1.05)  # the time of service itself
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(Keeper([Job("serving", serve, Backoff())], say).run())
"""
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(3)]
        process.terminate()
        code = process.wait(120)

    assert lines == ["was ended by SIGKILL 0.1"] * 3
    assert code == Exit.DRAINED


def test_a_job_that_fails_or_gives_up_changes_nothing_for_another_and_a_stop_ends_them_in_order() -> None:
    driver = """
import os, signal, sys, time
from ossensor.backoff import Backoff
from ossensor.vsensor.keeper import Job, Keeper
def say(text):
    os.write(1, text.encode() + b"\\n")  # in one piece, or lines of several processes would mix
def serve(name):
    def run():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        say(name + " runs")
        signal.sigwait({signal.SIGTERM})
        say(name + " ends")
        return 0
    return run
jobs = [Job("serving", serve("serving"), Backoff(), vital=True), Job("gives up", lambda: 78, Backoff())]
jobs += [Job("fails", lambda: 3, Backoff(base_s=0.01, cap_s=0.01)), Job("streaming", serve("streaming"), Backoff())]
sys.exit(Keeper(jobs, lambda what, pid, why, delay_s: say(what + " " + why)).run())
"""
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        while lines.count("fails ended with code 3") < 3 or not {"serving runs", "streaming runs"} <= set(lines):
            lines.append(process.stdout.readline().strip())
        process.terminate()
        lines += process.stdout.read().splitlines()
        code = process.wait(120)

    kept = [line for line in lines if not line.startswith("fails")]
    assert sorted(kept[:2]) == ["serving runs", "streaming runs"]
    assert kept[2:] == ["serving ends", "streaming ends"]
    assert code == Exit.DRAINED


# What a child's exit code is, the keeper keeps to itself. The last thing that it does is to be asked to stop once more.
_TOLD = """
import os, signal, time
from ossensor.vsensor import server
from ossensor.vsensor.streams import process as streaming
real_exit = os._exit
def tell(code):
    os.kill(os.getpid(), signal.SIGTERM)
    os.write(2, b"ended with %d\\n" % code)
    real_exit(code)
os._exit = tell
"""
# Before a child has its handlers, a stop is there.
_LATE = """
def late(real):
    def act(*arguments):
        while signal.SIGTERM not in signal.sigpending():
            time.sleep(0.01)
        real(*arguments)
    return act
server.stop_on_signals = late(server.stop_on_signals)
streaming._Streaming._watch_signals = late(streaming._Streaming._watch_signals)
"""


@pytest.mark.parametrize(
    "options, children",
    [(("--pcap-over-ip", "127.0.0.1:0"), 2), (("--jetstream", "nats://127.0.0.1:1"), 1)],
    ids=["serving and streaming", "publishing"],
)
@pytest.mark.parametrize("at_birth", ["", _LATE], ids=["", "and before it has handlers"])
def test_a_stop_that_comes_while_a_child_says_its_last_words_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_birth: str, options: tuple[str, ...], children: int
) -> None:
    monkeypatch.setattr(test_vsensor_kit_process, "_DRIVER", _TOLD + at_birth + test_vsensor_kit_process._DRIVER)
    with Process(tmp_path, *options) as process:
        process.wait_for("serving")
        code = process.stop()

    assert process.stderr.decode().splitlines().count("ended with 0") == children
    assert code == Exit.DRAINED


def test_a_child_that_says_that_its_configuration_is_wrong_is_not_restarted() -> None:
    driver = """
import sys
from ossensor.backoff import Backoff
from ossensor.vsensor.keeper import Job, Keeper
sys.exit(Keeper([Job("serving", lambda: 78, Backoff(), vital=True)], print).run())
"""
    done = subprocess.run([sys.executable, "-c", driver], capture_output=True, check=False, timeout=120)

    assert (done.returncode, done.stdout, done.stderr) == (Exit.CONFIGURATION, b"", b"")


def test_an_index_that_cannot_be_opened_is_named_in_one_line_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    with Process(tmp_path) as process:
        process.wait_for("restarting", 2)
        (tmp_path / "index.sqlite").rmdir()
        listening = process.wait_for("listening")
        with sensor(listening["address"], Path(listening["certificate"])) as one:
            assert one.deliver(0, section([payload(0, 100)]), created=now) is Outcome.STORED

    lines = process.stderr.decode().splitlines()
    assert len(lines) >= 2
    assert set(lines) == {f"vsensor: --store: {tmp_path}: unable to open database file"}


ROOT = Path(__file__).parents[2]


def test_a_successor_proves_itself_with_the_certificate_that_was_renewed_beside_its_predecessor(tmp_path: Path) -> None:
    """It showed the new one, and named the old: to its sensors, a man in the middle."""
    old, new = (certificate.ensure(tmp_path / name, "localhost") for name in ("old", "new"))
    with Process(tmp_path / "store", "--tls-cert", str(old.certificate), "--tls-key", str(old.key)) as process:
        listening = process.wait_for("listening")
        port = int(listening["address"].rpartition(":")[2])

        def proof(wire: Wire) -> str:
            try:
                answer = wire.send(Signer(listening["address"]).registration(created_s=now()))
            except OSError:  # by who shows the other one, or none yet
                return ""
            return answer.fields.get(FIELD_CERTIFICATE, "")

        for pair, ca in ((old, tmp_path / "old.pem"), (new, tmp_path / "new.pem")):
            ca.write_bytes(pair.certificate.read_bytes())
        before = Wire(port, tmp_path / "old.pem")
        assert eventually(lambda: proof(before) == old.sha256)
        before.close()
        new.certificate.rename(old.certificate)  # the key is still on its way
        os.kill(process.wait_for("serving")["pid"], signal.SIGKILL)
        process.wait_for("restarting", 2)
        new.key.rename(old.key)
        after = Wire(port, tmp_path / "new.pem")
        assert eventually(lambda: proof(after) == new.sha256)
        after.close()

    lines = set(process.stderr.decode().splitlines())
    assert lines == {f"vsensor: certificate or key is unusable ({old.certificate}, {old.key}): KEY_VALUES_MISMATCH"}


def test_a_stop_beside_half_a_body_says_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = test_vsensor_kit_process._DRIVER
    monkeypatch.setattr(test_vsensor_kit_process, "_DRIVER", driver.replace("GRACE_S = 3600", "GRACE_S = 1"))
    with Process(tmp_path) as process:
        listening = process.wait_for("listening")
        address, certificate = listening["address"], Path(listening["certificate"])
        message = Signer(address).message(0, section([payload(0, 100_000)]), created_s=now())
        wire = Wire(int(address.rpartition(":")[2]), certificate)
        with wire.connect() as half, sensor(address, certificate) as one:
            half.sendall(wire.head(message) + message.body[:1000])
            other = Stream("sensor-2", "f" * 32, "eth0")  # what is stored now came after the half was begun to be read
            assert one.deliver(0, section([payload(1)]), created=now, stream=other) is Outcome.STORED
            code = process.stop()

    assert (code, process.stderr) == (Exit.DRAINED, b"")


DAMAGED = {
    "no index at all": (bytes(range(256)) * 16, "file is not a database"),
    "a size that no memory holds": (
        (ROOT / "tests/fuzz/corpora/book_file/found-size-that-no-memory-holds").read_bytes(),
        "damaged, or there is no memory to read it",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_index_is_named_in_one_line_and_tried_again(tmp_path: Path, damage: str) -> None:
    data, said = DAMAGED[damage]
    (tmp_path / "index.sqlite").write_bytes(data)
    with Process(tmp_path) as process:
        process.wait_for("restarting", 2)
        (tmp_path / "index.sqlite").unlink()
        process.wait_for("listening")
        process.stop()

    assert set(process.stderr.decode().splitlines()) == {f"vsensor: --store: {tmp_path}: {said}"}


def test_it_says_where_it_listens_what_it_is_known_by_and_what_came_in(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        listening = process.wait_for("listening")
        with sensor(listening["address"], Path(listening["certificate"])) as one:
            one.deliver(0, section([payload(0)]), created=now)
        process.stop()
        (received,) = process.all("received")
    openssl = subprocess.run(
        ["openssl", "x509", "-in", listening["certificate"], "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        check=True,
        text=True,
    )

    assert listening["store"] == str(tmp_path)
    assert listening["page"] is None  # it takes an operator's token
    assert listening["sha256"] == openssl.stdout.partition("=")[2].strip().replace(":", "").lower()
    (file,) = tmp_path.rglob("*.pcapng")
    assert received == {
        "event": "received",
        "sensor": "sensor-1",
        "interface": "eth0",
        "packets": 1,
        "bytes": file.stat().st_size,
        "file": str(file),
    }


def test_tshark_reads_a_file_of_several_sections(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        listening = process.wait_for("listening")
        with sensor(listening["address"], Path(listening["certificate"])) as one:
            for i in range(3):
                one.deliver(i, section([payload(i), payload(i + 10)]), created=now)
    (file,) = tmp_path.rglob("*.pcapng")
    shown = subprocess.run(
        ["tshark", "-r", file, "-T", "fields", "-e", "frame.len"], capture_output=True, check=True, text=True
    )

    assert shown.stdout.split() == ["60"] * 6
    assert len(split(file.read_bytes())) == 3


def test_the_key_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        listening = process.wait_for("listening")
        pid = process.wait_for("serving")["pid"]
        with sensor(listening["address"], Path(listening["certificate"])) as one:
            one.deliver(0, section([payload(0)]), created=now)
            one.signer.key = type(KEY)(KEY.secret[::-1])
            assert one.send(one.signer.message(1, created_s=now())).status == 401
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        process.stop()
        said = repr(process.events).encode() + process.stderr
    everything = arguments + said + b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())

    for form in (KEY.secret, KEY.secret.hex().encode(), KEY.secret.hex().upper().encode(), repr(KEY.secret).encode()):
        assert form not in everything
    assert repr(KEY) == "Key()"


@pytest.mark.slow
def test_a_hundred_mebibytes_arrive_and_their_cost_is_printed(tmp_path: Path) -> None:
    """Figures for the closing note, not a bar: one connection, one batch at a time, TLS, no fsync."""
    body = section([os.urandom((1 << 20) - 200)])
    with Process(tmp_path, "--no-fsync") as process:
        listening = process.wait_for("listening")
        statistics = Path(f"/proc/{process.wait_for('serving')['pid']}/stat")

        def cpu_s() -> float:
            user, system = statistics.read_text().rpartition(")")[2].split()[11:13]
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

        with sensor(listening["address"], Path(listening["certificate"])) as one:
            one.deliver(0, body, created=now)
            start_s, start_cpu_s = time.monotonic(), cpu_s()
            outcomes = [one.deliver(i, body, created=now) for i in range(1, 101)]
            took_s, took_cpu_s = time.monotonic() - start_s, cpu_s() - start_cpu_s
    gigabytes = 100 * len(body) / 1e9
    print(f"{gigabytes * 1000 / took_s:.0f} MB/s, {took_cpu_s / gigabytes:.2f} CPU s/GB in the serving process")

    assert outcomes == [Outcome.STORED] * 100
    assert [p.stat().st_size for p in tmp_path.rglob("*.pcapng")] == [101 * len(body)]
