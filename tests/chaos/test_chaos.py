"""Everything goes wrong at once; then nothing does, and every frame is stored once or counted.

    warm up  ->  load and faults  ->  faults off  ->  recover  ->  drain  ->  judge

`make test` gives it a quarter of a minute of load and always the same seed, so that who changed nothing sees nothing
new; `make chaos` half an hour and a new seed, and runs the plans that once failed (`seeds/`: 2, a worker killed while
it read the rest; tests/netns/test_kills.py has what is left of it). A seed is run again by `pytest -s tests/chaos
--chaos-seed N`; a plan that was printed, whole or with lines deleted, by `--chaos-plan FILE`.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import DO, Chaos
from harness import proc
from harness.namespaces import why_not
from harness.programs import make_certificate
from harness.world import VSENSOR_NAMES
from judge import vacuous, wrong_with
from place import Site
from plan import KINDS, LINKS, Fault, drawn, read, written

LONG = bool(os.environ.get("OSSENSOR_CHAOS"))
LOAD_S = 1800 if LONG else 15
SEED = 15  # of the short run
SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.jsonl"))
RECOVER_S = 120
LONG_S = 600
# What every plan leaves behind, however short. The other traces depend on how faults meet, and a long run has them all.
CERTAIN = {
    "a worker died",
    "an uploader died",
    "a capture was taken over",
    "the sensor was started again",
    "the vSensor was started again",
    "a child that hung was found",
    "the vSensor could not be reached",
}

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(20 * 60 + 2 * LOAD_S)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if reason := why_not():
        pytest.skip(reason)
    print(f"logs are in {tmp_path}")
    with tempfile.TemporaryDirectory(prefix="ossensor-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # children of the sensor are nobody, and pass through it
        with Site(folder, make_certificate(folder, VSENSOR_NAMES), tmp_path) as made:
            yield made


def _given(config: pytest.Config) -> list[Fault]:
    if (path := config.getoption("--chaos-plan", default=None)) is not None:
        return read(path.read_text())
    seed = config.getoption("--chaos-seed", default=None)
    if seed is None:
        seed = secrets.randbits(32) if LONG else SEED
    load_s = config.getoption("--chaos-seconds", default=None) or LOAD_S
    print(f"seed {seed}, {load_s} s")
    return drawn(seed, load_s)


def test_each_kind_of_fault_can_be_done() -> None:
    assert DO.keys() == KINDS.keys()


def test_a3_faults_of_every_kind_at_once_lose_no_frame_uncounted_and_store_none_twice(
    site: Site, pytestconfig: pytest.Config
) -> None:
    _run(site, _given(pytestconfig))


@pytest.mark.skipif(not LONG, reason="a minute each: make chaos")
@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.stem)
def test_a_plan_that_once_failed_does_not_fail_again(site: Site, path: Path) -> None:
    _run(site, read(path.read_text()), whole=False)


def _run(site: Site, plan: list[Fault], *, whole: bool = True) -> None:
    """`whole`: the plan has every kind of fault, and all that faults leave behind should be found."""
    print(written(plan))
    for link in LINKS:
        site.await_new_epoch(link, set())
        site.oracles[link].resume()
    proc.eventually("it stores", site.stores, RECOVER_S)
    proc.eventually("it enforces", lambda: site.sensor.records("enforcer ready"), RECOVER_S)
    chaos = Chaos(site, plan)
    chaos.run()

    for oracle in site.oracles.values():
        oracle.pause()
    _probe(site)
    drained = _drain(site)
    audited = site.audited()
    links = [site.link(name, audited) for name in LINKS]
    felt = site.felt()
    for link in links:
        print(f"{link.name}: {link.sent} sent, {len(link.stored)} stored, {len(link.epochs)} epochs; {link.books}")
    print(json.dumps({"struck": chaos.struck, "felt": felt}, indent=1))

    assert chaos.failed == []
    assert [fault for link in links for fault in wrong_with(link)] == []
    assert drained == []
    must = {trace: count for trace, count in felt.items() if whole and (trace in CERTAIN or plan[-1].at_s > LONG_S)}
    assert vacuous(Counter(fault.kind for fault in plan), chaos.struck, must) == []


def _probe(site: Site) -> None:
    """With faults off, what comes now arrives."""
    for link, oracle in site.oracles.items():
        fresh = oracle.sent
        site.world.send(link, 1, first=fresh)
        oracle.sent += 1
        proc.eventually(f"a fresh frame of {link}", lambda: site.holds(link, fresh), RECOVER_S)  # noqa: B023


def _drain(site: Site) -> list[str]:
    """Stops the sensor for good; what it says of itself that should not be."""
    site.keeps = False
    site.sensor.restart()
    last = site.sensor.current()
    for link in LINKS:
        last.wait_for("capturing", interface=link, timeout_s=RECOVER_S)
    spool = site.spool.seen_from_outside / "spool"
    proc.eventually("the spool is empty", lambda: not list(spool.glob("*.pcapng")), RECOVER_S)
    assert site.sensor.stop() is last
    code = last.wait(1)
    unbalanced = [*site.sensor.lines("NOT BALANCED"), *site.sensor.lines("a bug ended")]
    return unbalanced + ([] if code == 0 else [f"exit code {code}"])
