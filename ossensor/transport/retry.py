"""What follows an attempt, in one place: what is sent again, what is given up, and how long is waited. Pure.

Invariant: a batch leaves the sensor as DELIVERED or GIVEN_UP and in no other way, and the table has these two for
outcomes alone, which only a signed reply has. What bears no signature of the vSensor's (a proxy's 404, a load
balancer's 503, half a reply, a closed door) may be anybody's: it casts doubt on the address, never on the batch.

So the *status* of an unsigned reply decides nothing. A list of statuses that are "permanent" is what other forwarders
have, and what makes them throw data away when a gateway in between is misconfigured for an hour.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Final, NamedTuple

from ossensor.accounting import Reason

from .protocol import Outcome

# After a doubt: random up to the first, doubling to the last.
_FIRST_S: Final = 0.1
_LONGEST_S: Final = 30.0
# After a direct address failed: each good attempt moves the deliveries there, and each failure moves them back.
_DIRECT_FIRST_S: Final = 1.0
_DIRECT_LONGEST_S: Final = 60.0
# After a signed "not now": the vSensor is there, and this batch waits a little.
_AGAIN_S: Final = 0.2


class Next(Enum):
    """What becomes of the batch."""

    DELIVERED = auto()  # durable at the vSensor
    GIVEN_UP = auto()  # it will never be taken; its packets are counted under the rule's reason
    AGAIN = auto()  # the vSensor is there, and this attempt was not good: this batch alone waits
    ELSEWHERE = auto()  # nobody whom we trust has answered: all batches wait, for the next address or a new proof


class Rule(NamedTuple):
    """A row of the table."""

    next: Next
    reason: Reason | None = None
    trouble: str = ""  # said, in words, when it happens


_BUSY: Final = "the vSensor cannot take a batch now"

_SIGNED: Final[Mapping[Outcome, Rule]] = MappingProxyType(
    {
        Outcome.STORED: Rule(Next.DELIVERED),
        Outcome.PRESENT: Rule(Next.DELIVERED),
        Outcome.MALFORMED: Rule(Next.GIVEN_UP, Reason.REJECTED),
        Outcome.TOO_LARGE: Rule(Next.GIVEN_UP, Reason.TOO_LARGE),
        Outcome.STALE: Rule(Next.AGAIN),  # heals itself: the reply has the vSensor's clock, and we sign by that
        Outcome.OUT_OF_ORDER: Rule(Next.AGAIN),  # heals itself: its predecessor is on its way
        Outcome.REPLAYED: Rule(Next.AGAIN, trouble=_BUSY),  # each attempt has a nonce of its own
        Outcome.ALTERED: Rule(Next.AGAIN, trouble=_BUSY),
        Outcome.BUSY: Rule(Next.AGAIN, trouble=_BUSY),
        Outcome.STORE_FAILED: Rule(Next.AGAIN, trouble=_BUSY),
        Outcome.REGISTERED: Rule(Next.AGAIN, trouble=_BUSY),  # of the other channel: it says nothing of a batch
    }
)
_UNSIGNED: Final = Rule(Next.ELSEWHERE)


def rule(outcome: Outcome | None) -> Rule:
    """What follows a signed outcome; None is whatever came back, or did not, without the vSensor's signature."""
    return _UNSIGNED if outcome is None else _SIGNED[outcome]


def again_s(retry_after_s: float) -> float:
    """How long one batch waits after AGAIN.

    Retry-After (RFC 9110 section 10.2.3) is not signed, here as below: whoever stands in between may ask for any time,
    and gets at most the longest wait of our own.
    """
    return max(_AGAIN_S, min(retry_after_s, _LONGEST_S))


def elsewhere_s(failures: int, retry_after_s: float, rng: random.Random) -> float:
    """How long everything waits after the last address was doubted, `failures` times before in a row.

    Full jitter: a fleet that lost its vSensor at one moment must not come back at one moment.
    """
    ceiling_s = min(_LONGEST_S, _FIRST_S * 2.0 ** min(failures, 30))
    return max(rng.uniform(0.0, ceiling_s), min(retry_after_s, _LONGEST_S))


def direct_s(failures: int, retry_after_s: float, rng: random.Random) -> float:
    """How long a direct address is left alone that failed `failures` times before in a row.

    Half of it is fixed: with full jitter, two moves of all deliveries could follow each other at once.
    """
    ceiling_s = min(_DIRECT_LONGEST_S, _DIRECT_FIRST_S * 2.0 ** min(failures, 30))
    return max(ceiling_s / 2 + rng.uniform(0.0, ceiling_s / 2), min(retry_after_s, _LONGEST_S))


__all__ = ["Next", "Rule", "again_s", "direct_s", "elsewhere_s", "rule"]
