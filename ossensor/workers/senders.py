"""The threads that make the attempts: each has a connection of its own, takes a job, and reports what came of it.

Nothing here decides anything, and nothing of the main thread's is touched: jobs go in by one queue, news come out by
`report`. A batch in the spool is read by the thread that sends it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ossensor.spoolfile import DamagedError, Spooled
from ossensor.transport.client import Client, Job, Result
from ossensor.transport.protocol import Account, BatchId

from .route import ends_the_process
from .spool import Damaged, Unread

Read = Callable[[Spooled], tuple[memoryview, Account]]


class Senders:
    """As many attempts at once as there are clients; `read` opens a file of the spool."""

    def __init__(
        self, clients: Sequence[Client], read: Read | None, report: Callable[[Result | Damaged | Unread], None]
    ) -> None:
        self._clients = clients
        self._read = read
        self._report = report
        self._jobs: queue.SimpleQueue[tuple[Job, Spooled | None]] = queue.SimpleQueue()
        self._since_s: dict[BatchId, float] = {}  # of the attempts under way, oldest first
        for number, client in enumerate(clients):
            threading.Thread(target=self._work, args=(client,), name=f"sender-{number}", daemon=True).start()

    def send(self, job: Job, spooled: Spooled | None) -> None:
        """Begins an attempt; with `spooled`, section and account are that file's."""
        self._since_s[job.batch] = time.monotonic()
        self._jobs.put((job, spooled))

    def concluded(self, name: BatchId) -> None:
        """The attempt's news have been heard."""
        del self._since_s[name]

    @property
    def oldest_s(self) -> float | None:
        """When the oldest attempt that is under way began."""
        return next(iter(self._since_s.values()), None)

    def acknowledged_bytes(self) -> int:
        """What the peer's TCP has acknowledged on the present connections."""
        return sum(client.acknowledged_bytes() for client in self._clients)

    # -- the threads ----------------------------------------------------------------------------------------------

    def _work(self, client: Client) -> None:
        with ends_the_process():
            generation = 0
            while True:
                job, spooled = self._jobs.get()
                if job.stamp.generation != generation:
                    client.close()  # a connection to an address that is not in use any more
                    generation = job.stamp.generation
                self._report(self._attempt(client, job, spooled))

    def _attempt(self, client: Client, job: Job, spooled: Spooled | None) -> Result | Damaged | Unread:
        if spooled is None or self._read is None:
            return client.send(job)
        try:
            section, account = self._read(spooled)
        except DamagedError as e:
            return Damaged(spooled, str(e))
        except OSError as e:
            return Unread(spooled, os.strerror(e.errno or 0))
        return client.send(replace(job, section=section, account=account))
