"""The spool's thread without a thread: its loop runs when the machine says so, for one order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty
from types import SimpleNamespace
from unittest import mock

from ossensor.workers import spool as spool_module
from ossensor.workers.spool import Order, Spool


class OrdersOneByOne(list[Order]):
    """In place of the thread's queue: the loop is over when one order has been served."""

    served = False
    put = list.append

    def get(self) -> Order:
        if self.served:
            raise Empty
        self.served = True
        return self.pop(0)


@contextmanager
def no_threads() -> Iterator[None]:
    """Spools made meanwhile start none."""
    with mock.patch.object(spool_module, "threading", SimpleNamespace(Thread=mock.Mock())):
        yield


def take_orders(spool: Spool) -> OrdersOneByOne:
    """The queue of a spool that has no thread."""
    orders = spool._orders = OrdersOneByOne()
    return orders


def serve_one(spool: Spool, orders: OrdersOneByOne) -> None:
    """The thread's next turn."""
    orders.served = False
    with suppress(Empty):
        spool._write_all()
