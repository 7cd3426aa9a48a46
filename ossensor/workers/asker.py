"""A thread that says one thing at a time to the vSensor, over a connection of its own, and reports what came of it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from ossensor.transport.client import Client
from ossensor.transport.inquiry import Answer, Inquiry

from .route import ends_the_process


class Asker:
    """`report` is called from the thread. `keep_connection`: the next thing is said soon."""

    def __init__(self, name: str, client: Client, report: Callable[[Answer], None], *, keep_connection: bool) -> None:
        self._client = client
        self._report = report
        self._keep_connection = keep_connection
        self._inquiries: queue.SimpleQueue[Inquiry] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    @property
    def waiting(self) -> int:
        """Inquiries that are not begun."""
        return self._inquiries.qsize()

    def ask(self, inquiry: Inquiry) -> None:
        self._inquiries.put(inquiry)

    def _work(self) -> None:
        with ends_the_process():
            while True:
                answer = self._client.ask(self._inquiries.get())
                if not self._keep_connection:
                    self._client.close()
                self._report(answer)
