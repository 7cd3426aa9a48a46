"""Sensors by the hundred, as a vSensor sees them: registered, with connections that they keep, batches in their turn.

Each is the product's own client (transport/client.py) without the rest of the sensor. They live in processes of their
own, so that what is measured of the vSensor has nothing of them in it.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

from ossensor import pcapng
from ossensor.backoff import Backoff
from ossensor.transport.client import Client, Job
from ossensor.transport.compression import AUTO
from ossensor.transport.protocol import BatchId, Outcome, Stream
from ossensor.transport.registration import Question
from ossensor.transport.signing import Key, Nonce
from ossensor.transport.stamp import Stamp

_PATIENCE_S: Final = 120.0
_fork = multiprocessing.get_context("fork")


class Crowd(NamedTuple):
    """How many sensors, with how many connections each, sending sections of how many bytes."""

    sensors: int
    connections: int
    section_bytes: int
    pause_s: float = 0.0  # between two batches of one connection
    new_per_s: float = math.inf  # connections that begin in a second; else all in the same instant


def section(size: int, packet_bytes: int = 1400) -> tuple[bytes, int]:
    """A section of noise in packets, a little under `size`; with the number of its packets."""
    prologue = pcapng.section_header("bench") + pcapng.interface_description("eth0", 1, 262_144, "", "Linux")
    made = pcapng.Section.open(memoryview(bytearray(size)), prologue)
    rng, packets, now_ns = random.Random(size), 0, time.time_ns()
    while made.add(now_ns + packets, rng.randbytes(packet_bytes), packet_bytes):
        packets += 1
    end = made.close(now_ns, now_ns + packets, packets, 0)
    return bytes(made.view[:end]), packets


class Sensor:
    """One sensor: `send` is called by a thread for each connection, all of them on one stream."""

    def __init__(self, name: str, port: int, key: Key, crowd: Crowd, context: ssl.SSLContext) -> None:
        self.name = name
        self._key = key
        self._lock = threading.Lock()
        self._stream = Stream(name, os.urandom(16).hex(), "eth0")
        self._run, self._nonces = os.urandom(16).hex(), 0
        self._next, self._flying = 0, set[int]()
        self._pin = ""
        self.clients = [Client("127.0.0.1", port, context, "bench", AUTO) for _ in range(crowd.connections)]

    def _nonce(self) -> Nonce:
        with self._lock:
            self._nonces += 1
            return Nonce(self._run, self._nonces)

    def register(self) -> str:
        """The name of what came of it at last: "registered", or what went wrong."""
        backoff, until_s = Backoff(), time.monotonic() + _PATIENCE_S
        while True:
            question = Question(self.name, "127.0.0.1", 0, (self._key,), int(time.time()), (self._nonce(),), bound=True)
            proof = self.clients[0].prove(question)
            self._pin = proof.pin
            if proof.key is not None or time.monotonic() > until_s:
                break
            time.sleep(backoff.failed(time.monotonic(), time.monotonic()))
        return Outcome.REGISTERED.value if proof.key is not None else proof.detail

    def send(self, client: Client, body: bytes, packets: int, until_s: float) -> str:
        """Sends one batch until it is stored; what came of it at last."""
        with self._lock:
            sequence, self._next = self._next, self._next + 1
            self._flying.add(sequence)
        backoff = Backoff()
        while True:
            with self._lock:
                floor = min(self._flying)
            stamp = Stamp("127.0.0.1", 0, int(time.time()), self._nonce(), self._key, self._pin)
            job = Job(BatchId(self._stream, sequence), memoryview(body), packets, floor, compress=False, stamp=stamp)
            result = client.send(job)
            if result.acknowledged or time.monotonic() > until_s:
                break
            time.sleep(backoff.failed(time.monotonic(), time.monotonic()))
        with self._lock:
            self._flying.discard(sequence)
        return result.outcome.value if result.outcome is not None else result.detail


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin decides, as with VSENSOR_TLS=key
    return context


class Tally(NamedTuple):
    """What a crowd did while it was watched."""

    outcomes: Counter[str]
    stored_bytes: int
    elapsed_s: float
    delays_s: list[float]  # from the first byte sent to the signed answer


def nice() -> None:
    """A crowd that lives on the vSensor's machine takes less of it than others would."""
    os.nice(19)


def _live(number: int, port: int, key: Key, crowd: Crowd, pipe: Connection, step_back: Callable[[], object]) -> None:
    step_back()
    body, packets = section(crowd.section_bytes)
    context = _context()
    sensor = Sensor(f"bench-{number:03}", port, key, crowd, context)
    pipe.send(Counter([sensor.register()]))
    until_s, ramp_s = pipe.recv()
    outcomes, delays_s, lock = Counter[str](), list[float](), threading.Lock()

    def work(client: Client) -> None:
        time.sleep(random.uniform(0, ramp_s))
        while True:  # one at least, however long the rest took, so that every connection is there
            began_s = time.monotonic()
            outcome = sensor.send(client, body, packets, until_s + _PATIENCE_S)
            with lock:
                outcomes[outcome] += 1
                delays_s.append(time.monotonic() - began_s)
            if time.monotonic() >= until_s:
                break
            time.sleep(crowd.pause_s * random.uniform(0.5, 1.5))

    threads = [threading.Thread(target=work, args=(client,)) for client in sensor.clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((outcomes, outcomes[Outcome.STORED.value] * len(body), delays_s))
    threading.Event().wait()  # connections are kept until the vSensor has been looked at


class Gathered:
    """A crowd that has registered, and waits for the word."""

    def __init__(self, pipes: list[Connection], crowd: Crowd) -> None:
        self._pipes = pipes
        self._crowd = crowd
        self.registered = sum((pipe.recv() for pipe in pipes), Counter[str]())

    def send(self, seconds: float) -> Tally:
        """Lets them come one after the other, then send for so long, and until what they have begun is settled."""
        began_s = time.monotonic()
        ramp_s = self._crowd.sensors * self._crowd.connections / self._crowd.new_per_s
        for pipe in self._pipes:
            pipe.send((began_s + ramp_s + seconds, ramp_s))
        found: list[Any] = [pipe.recv() for pipe in self._pipes]
        outcomes = sum((outcomes for outcomes, _, _ in found), Counter[str]())
        delays_s = [delay for _, _, delays in found for delay in delays]
        return Tally(outcomes, sum(stored for _, stored, _ in found), time.monotonic() - began_s, delays_s)


@contextmanager
def gather(port: int, secret: str, crowd: Crowd, step_back: Callable[[], object] = nice) -> Iterator[Gathered]:
    """The crowd, registered. Each of its processes calls `step_back` first.

    A process for each, as in life: hundreds of threads of one process wait in line for its interpreter, 5 ms a turn,
    and time out at handshakes that were answered long ago. Of 2,500 connections in four processes, or in 125, it was
    the crowd that collapsed; the vSensor had one eighth of a processor.
    """
    key = Key(secret.encode())
    pipes, processes = [], []
    for number in range(crowd.sensors):
        ours, theirs = _fork.Pipe()
        process = _fork.Process(target=_live, args=(number, port, key, crowd, theirs, step_back), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        yield Gathered(pipes, crowd)
    finally:
        # Each holds copies of the others' pipes, so closing ours ends nobody; and they have said what they had to say.
        for process in processes:
            process.kill()
            process.join()
        for pipe in pipes:
            pipe.close()
