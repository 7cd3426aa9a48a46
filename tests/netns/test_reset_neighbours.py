"""An hour of orders beside 200 connections that none of them concerns: not a byte is lost, and nobody is reset."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from harness.connections import Pair, connected
from harness.resets import RESET, Enforcing, Hosts, close, two_hosts, ways

pytestmark = [pytest.mark.netns, pytest.mark.slow]

NEIGHBOURS = 200
ROUNDS = 180  # for each family: with both, one round for every ten seconds of an hour


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with two_hosts() as made:
        yield made


def _block(name: str, pair: Pair, *, protocol: str = "tcp", opener: int = 0, acceptor: int = 0) -> dict[str, Any]:
    """A block of the pair's connection, or of one whose ports differ by so much."""
    sides = {
        side: {"network": sock.getsockname()[0], "port": sock.getsockname()[1] + beside}
        for side, sock, beside in (("source", pair.opener, opener), ("destination", pair.acceptor, acceptor))
    }
    return {"id": name, "protocol": protocol, **sides}


def _near_misses(rng: random.Random, neighbours: list[Pair]) -> Iterator[dict[str, Any]]:
    """Orders that differ from a neighbour's connection in one port, or in the protocol, and in nothing else."""
    taken = {pair.opener.getsockname()[1] for pair in neighbours}
    for number, pair in enumerate(rng.sample(neighbours, 10)):
        port = pair.opener.getsockname()[1]
        beside = next(by for by in range(1, 1000) if port + by not in taken)
        yield _block(f"opener{number}", pair, opener=beside)
        yield _block(f"acceptor{number}", pair, acceptor=rng.choice([-1, 1]))
        yield _block(f"udp{number}", pair, protocol="udp")


@pytest.mark.parametrize("family", [4, 6])
def test_two_hundred_connections_live_through_an_hour_of_orders_about_others(hosts: Hosts, family: int) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    begun = ended = exchanges = 0
    with Enforcing(hosts.sensor, "eth0") as enforcing:
        neighbours = connected(*ways(hosts, family), NEIGHBOURS)
        for _ in range(ROUNDS):
            victims = connected(*ways(hosts, family, outward=rng.random() < 0.5), rng.randint(1, 3))
            begun += len(victims)
            exact = [_block(f"victim{number}", victim) for number, victim in enumerate(victims)]
            enforcing.order(*exact, *_near_misses(rng, neighbours))
            for victim in victims:
                rng.choice(victim).sendall(b"x")
                ended += victim.ends() == RESET
            exchanges += sum(pair.exchange() for pair in rng.sample(neighbours, 20))
            told = enforcing.report()
            assert sorted(name for name, counts in told.items() if counts) == sorted(order["id"] for order in exact)
            close(victims)
        alive = sum(pair.exchange() for pair in neighbours)
        close(neighbours)
    print(f"{ended} connections ended, {exchanges} exchanges beside them, {alive} of {NEIGHBOURS} alive at the end")

    assert ended == begun
    assert exchanges == 20 * ROUNDS
    assert alive == NEIGHBOURS
