"""D2: what a compromised worker writes into the memory that it shares: headers, control page, doorbells (slots.py).

Declared: none; the uploader, and the supervisor that saves a dead worker's batch, go on whatever is there. Second
oracle: each slot is filled with a byte of its own, and so is another interface's memory, so a byte read or written
outside shows; a batch has no more packets than its slot has room for; and each batch is counted once.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from ossensor.accounting import UPLOADER_REASONS, Reason
from ossensor.region import Commit, Control, Header, Region, State
from ossensor.slots import Closing, Consumer, Pipes, Producer
from ossensor.workers.batcher import rescue

_SLOTS, _SLOT_BYTES = 3, 512
_EPOCH = bytes(range(16))
_CONTROL_WORDS = 50  # of the 512, those that mean something
_HEADER_WORDS = 16
_DOORBELL = struct.Struct("<QQ")


class _Queue:
    """One interface's memory and pipes. Made once: what a target is given is written over all of it."""

    def __init__(self) -> None:
        self.region = Region.create(_SLOTS, _SLOT_BYTES)
        self.pipes = Pipes.create()

    def reset(self) -> None:
        for word in range(3, _CONTROL_WORDS):
            self.region.set_control(word, 0)
        for slot in range(_SLOTS):
            self.region.set_headers(slot, 0, *[0] * _HEADER_WORDS)
            self.region.slot(slot)[:] = bytes([slot + 1]) * _SLOT_BYTES
        for fd in (self.pipes.ready_read, self.pipes.free_read):
            while self._drained(fd):
                pass

    def _drained(self, fd: int) -> bytes:
        try:
            return os.read(fd, 1 << 16)
        except BlockingIOError:
            return b""

    @property
    def words(self) -> list[int]:
        region = self.region
        control = [region.control(word) for word in range(3, _CONTROL_WORDS)]
        return control + [region.header(slot, word) for slot in range(_SLOTS) for word in range(_HEADER_WORDS)]

    def write(self, data: bytes) -> None:
        """Headers first, then the control page, then doorbells; what is missing is zero."""
        head, body = data[: _SLOTS * _HEADER_WORDS * 8], data[_SLOTS * _HEADER_WORDS * 8 :]
        words = iter(struct.unpack(f"<{_SLOTS * _HEADER_WORDS}Q", head.ljust(_SLOTS * _HEADER_WORDS * 8, b"\0")))
        for slot in range(_SLOTS):
            for word in range(_HEADER_WORDS):
                self.region.set_header(slot, word, next(words))
        controls = (_CONTROL_WORDS - 3) * 8
        for number, value in enumerate(
            struct.unpack(f"<{_CONTROL_WORDS - 3}Q", body[:controls].ljust(controls, b"\0"))
        ):
            self.region.set_control(3 + number, value)
        os.write(self.pipes.ready_write, body[controls : controls + 4096])


_OURS, _OTHER = _Queue(), _Queue()


def seeds() -> Iterator[bytes]:
    """Memory with a batch that is ready, one that is being filled, and one that is being settled."""
    queue = _Queue()
    queue.reset()
    producer = Producer(queue.region, queue.pipes.ready_write, queue.pipes.free_read)
    for packets in (2, 3, 1):
        slot = producer.begin(_EPOCH)
        producer.commit(slot, Commit(100, packets, packets), 5, 6)
        if packets != 1:
            producer.publish(slot, Closing(200, 9, 1))
    queue.region.set_header(1, Header.STATE, State.SETTLING)
    queue.region.set_header(1, Header.SETTLE_WORD, Control.DELIVERED)
    queue.region.set_header(1, Header.SETTLE_VALUE, 3)
    control, headers = queue.words[: _CONTROL_WORDS - 3], queue.words[_CONTROL_WORDS - 3 :]
    yield struct.pack(f"<{len(queue.words)}Q", *headers, *control) + _DOORBELL.pack(2, 0) + _DOORBELL.pack(2**64 - 1, 0)
    yield struct.pack(f"<{len(queue.words)}Q", *headers, *control)
    os.close(queue.region.fd)
    queue.pipes.close()


def target(data: bytes) -> bool:
    for queue in (_OURS, _OTHER):
        queue.reset()
    before = _OTHER.words
    _OURS.write(data)
    given = _uploader(_OURS, rescued=False)
    _supervisor(_OURS.region, _OURS.pipes)
    given += _uploader(_OURS, rescued=True)
    assert _OTHER.words == before
    for slot in range(_SLOTS):
        assert set(_OTHER.region.slot(slot)) == {slot + 1}
    return given > 0


def _uploader(queue: _Queue, *, rescued: bool) -> int:
    """Finishes, lists and settles as an uploader that has just started; how many of its batches can be sent."""
    region, pipes = queue.region, queue.pipes
    consumer = Consumer(region, pipes.ready_read, pipes.free_write)
    given = 0
    for _ in range(2):
        for number, batch in enumerate(consumer.listen()):
            assert batch.packets <= _SLOT_BYTES // 32
            section = consumer.section(batch)
            if section is None:
                word, reason, spooled = Control.DROPPED + UPLOADER_REASONS.index(Reason.CORRUPT), Reason.CORRUPT, False
            else:
                given += 1
                assert rescued or set(section) == {batch.slot + 1}
                assert 0 < len(section) <= _SLOT_BYTES
                reason, spooled = (None, bool(number % 2))
                word = Control.SPOOLED if spooled else Control.DELIVERED
            counted = region.control(word)
            consumer.settle(batch, reason, spooled=spooled)
            assert (region.control(word) - counted) % 2**64 == batch.packets
            assert region.state(batch.slot) == State.FREE
    assert consumer.held == 0
    return given


def _supervisor(region: Region, pipes: Pipes) -> None:
    """As port.py, when a worker has died and its ring is given up."""
    saved = rescue(Producer(region, pipes.ready_write, pipes.free_read))
    assert 0 <= saved < 1 << 26
    region.consumed()
    lost = 10**6 - region.committed_in_epoch()
    region.set_totals(10**6, 0, {Reason.WORKER_DIED: lost})
    region.set_kernel_counts(*region.kernel_counts())
    region.in_flight()
    region.filter_text()
    assert 0 <= region.section_bytes() <= _SLOT_BYTES
    region.begin_epoch()
