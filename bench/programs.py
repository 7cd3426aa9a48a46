"""What is measured: tcpdump and dumpcap as they come, and the sensor's own worker on either engine.

Of each the same is asked: processor time of the one process that captures, by the scheduler's own clock, and how many
packets it has, by its own count.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import re
import select
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from load import INTERFACE, READER_CORE, SENDER_CORE, Link

from ossensor.budget import Share
from ossensor.capture import bpf
from ossensor.capture.engine import Tuning, open_engine
from ossensor.interfaces import enumerate_interfaces
from ossensor.region import Region
from ossensor.slots import Consumer, Pipes, Producer
from ossensor.workers.capture import CaptureWorker, Plan
from ossensor.workers.child import Heartbeat, Signals

RING_MB: Final = 16
_BUFFER_MB: Final = 32
_TIMEOUT_MS: Final = 100
_fork = multiprocessing.get_context("fork")


def _enter(namespace: int) -> None:
    """setns(2), which Python has from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


class Running:
    """A program that captures: `cpu_s` while it runs, `finish` once."""

    def __init__(self, pid: int, finish: Callable[[], tuple[int, int]]) -> None:
        self.pid = pid
        self.finish = finish

    @property
    def cpu_s(self) -> float:
        # Nanoseconds on a processor, the first field (Documentation/scheduler/sched-stats.rst): all threads of it.
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def peer(link: Link, *argv: str, counts: Callable[[str], tuple[int, int]]) -> Iterator[Running]:
    """A foreign program inside the reader's namespace, once it has said that it captures."""
    process = subprocess.Popen(
        link.inside(link.reader, *argv, core=READER_CORE), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    said: list[str] = []
    ready = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            said.append(line)
            if "istening on" in line or "File: " in line:
                ready.set()

    reader = threading.Thread(target=read)
    reader.start()

    def finish() -> tuple[int, int]:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        reader.join()
        return counts("".join(said))

    try:
        if not ready.wait(10):
            raise RuntimeError(f"{argv[0]} does not capture: {''.join(said)}")
        yield Running(process.pid, finish)
    finally:
        process.kill()
        process.wait()


def _tcpdump_counts(said: str) -> tuple[int, int]:
    captured, dropped = (
        int(re.findall(rf"(\d+) packets? {what}", said)[0]) for what in ("captured", "dropped by kernel")
    )
    return captured, dropped


def _dumpcap_counts(said: str) -> tuple[int, int]:
    captured, dropped = re.findall(r"Packets received/dropped on interface '.*': (\d+)/(\d+)", said)[-1]
    return int(captured), int(dropped)


def tcpdump(link: Link, *options: str) -> Any:
    return peer(link, "tcpdump", "-i", INTERFACE, "-n", "-w", "/dev/null", *options, counts=_tcpdump_counts)


def dumpcap(link: Link) -> Any:
    return peer(link, "dumpcap", "-q", "-i", INTERFACE, "-w", "/dev/null", counts=_dumpcap_counts)


@contextmanager
def worker(link: Link, engine_name: str) -> Iterator[Running]:
    """The product's worker, with a consumer on the other core that settles each batch at once, as an uploader would."""
    share = Share(RING_MB << 20, _BUFFER_MB << 20)
    region = Region.within(share.buffer_bytes, share.slots)
    pipes = Pipes.create()
    heartbeat = Heartbeat()
    in_namespace = os.open(f"/run/netns/{link.reader}", os.O_RDONLY)
    ours, theirs = _fork.Pipe()

    def capture() -> None:
        _enter(in_namespace)
        os.sched_setaffinity(0, {READER_CORE})
        (interface,) = [i for i in enumerate_interfaces() if i.name == INTERFACE]
        engine = open_engine(engine_name, interface, bpf.REJECT_ALL, Tuning(share.ring_bytes, _TIMEOUT_MS))
        bpf.attach(engine.socket, bpf.compile_on(INTERFACE, ""))
        signals = Signals(signal.SIGTERM)
        theirs.send("ready")
        plan = Plan(
            interface=INTERFACE,
            ifindex=interface.index,
            epoch=bytes(16),
            application="bench",
            batch_s=0.25,
            block_timeout_s=_TIMEOUT_MS / 1000,
            snaplen=bpf.SNAPLEN_BYTES,
        )
        CaptureWorker(plan, engine, Producer(region, pipes.ready_write, pipes.free_read), heartbeat).run(signals)
        theirs.send(tuple(bpf.statistics(engine.socket)))

    def consume() -> None:
        theirs.close()
        os.sched_setaffinity(0, {SENDER_CORE})
        consumer = Consumer(region, pipes.ready_read, pipes.free_write)
        while True:
            for batch in consumer.listen():
                consumer.settle(batch)
            select.select([pipes.ready_read], [], [], 1)

    def live(work: Callable[[], None]) -> int:
        pid = os.fork()
        if not pid:
            try:
                work()
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        return pid

    capturer, consumer = live(capture), live(consume)
    theirs.close()  # so that the end of the worker is the end of what it says

    def finish() -> tuple[int, int]:
        region.set_ending(on=True)
        os.kill(capturer, signal.SIGTERM)
        received, dropped = ours.recv()
        committed = region.committed()
        if received != committed + dropped:
            raise RuntimeError(
                f"the books do not balance: {received} received, {committed} in slots, {dropped} dropped"
            )
        return committed, dropped

    try:
        ours.recv()
        time.sleep(0.2)
        yield Running(capturer, finish)
    finally:
        for pid in (capturer, consumer):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        region.close()
        pipes.close()
        for fd in (region.fd, in_namespace):
            os.close(fd)


PROGRAMS: Final[dict[str, Callable[[Link], Any]]] = {
    "ring": lambda link: worker(link, "ring"),
    "pypcap": lambda link: worker(link, "pypcap"),
    "tcpdump": tcpdump,
    "tcpdump -B 16384": lambda link: tcpdump(link, "-B", "16384"),
    "dumpcap": dumpcap,
}
