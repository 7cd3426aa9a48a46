"""Which nonces have been used. Pure; constant memory for each run of a sensor's uploader.

Invariant: a nonce is admitted at most once while a signature that carries it can still be inside the time window.

A nonce is a random run and a counter (signing.Nonce), so in place of a set of everything seen there is, for each
(sensor, run), the highest counter and a bitmap of the 1,024 below it: IPsec's window (RFC 4303 section 3.4.3).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from ossensor.transport.protocol import WINDOW_S, Outcome
from ossensor.transport.signing import Nonce

# An uploader keeps some tens of requests in flight; IPsec recommends 64. More than that late is not reordering.
WINDOW: Final = 1024

# A request is believed at most WINDOW_S before or after `created`, so a nonce admitted at t was created by
# t + WINDOW_S and is stale by t + 2 * WINDOW_S. Past that the clock refuses the replay and the memory may go.
FORGET_S: Final = 2 * WINDOW_S

# About half a kilobyte each. A run is one uploader's life: 4,096 in two minutes is 34 restarts a second, all of them
# by holders of the key.
RUNS_MAX: Final = 4096


@dataclass(slots=True)
class _Run:
    highest: int
    seen: int  # bit i: `highest - i` was used
    used_s: float

    def admit(self, count: int, window: int) -> bool:
        ahead = count - self.highest
        if ahead > 0:
            # The counter is the peer's: shifting by it unchecked would let one request ask for an exabyte.
            self.seen = (self.seen << ahead | 1) & ((1 << window) - 1) if ahead < window else 1
            self.highest = count
            return True
        bit = 1 << -ahead if -ahead < window else 0
        if bit == 0 or self.seen & bit:
            return False  # used, or too old to know: an honest sender signs again with a new number
        self.seen |= bit
        return True


class Replay:
    """The memory of nonces. `now_s` must not run backwards, or forgetting would come before staleness."""

    def __init__(self, runs_max: int = RUNS_MAX, window: int = WINDOW) -> None:
        self._runs_max = runs_max
        self._window = window
        self._runs: OrderedDict[tuple[str, str], _Run] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._runs)

    def check_and_mark(self, sensor: str, nonce: Nonce, now_s: float) -> Outcome | None:
        """None when the nonce is new, which it then no longer is; REPLAYED when it is not.

        BUSY for a new run while the memory is full. Forgetting a live run instead would let everything be replayed
        that it had admitted; refusing costs a retry.
        """
        self._forget(now_s)
        key = (sensor, nonce.run)
        run = self._runs.get(key)
        if run is None:
            if len(self._runs) >= self._runs_max:
                return Outcome.BUSY
            self._runs[key] = _Run(highest=nonce.count, seen=1, used_s=now_s)
            return None
        if not run.admit(nonce.count, self._window):
            return Outcome.REPLAYED
        run.used_s = now_s
        self._runs.move_to_end(key)
        return None

    def _forget(self, now_s: float) -> None:
        while self._runs:
            key, run = next(iter(self._runs.items()))
            if now_s - run.used_s <= FORGET_S:
                return
            del self._runs[key]
