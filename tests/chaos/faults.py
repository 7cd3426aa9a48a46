"""How each kind of fault is done to the site, and taken back. What is done and could not be undone fails the run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from harness import proc
from harness.namespaces import Namespace
from harness.programs import KEY, UPLOADER, worker_of
from harness.world import PORT
from place import ENFORCER, Site
from plan import Fault, lanes

# In which a process that is to be struck may be missing: another lane struck it, or, as the enforcer, it does not begin
# before the vSensor has answered.
_ABSENT_S: Final = 90
_TRIES: Final = 3  # it may die at another's hand between being found and being struck
_HUNG_S: Final = 60
_CLOSED_S: Final = 180
_QDISC: Final = ("tc", "qdisc")
_UP: Final = ("dev", "up0", "root")


def _pid(site: Site, name: str) -> int | None:
    """The process of this name in the sensor's present life, once there is one."""

    def one() -> int:
        return next(iter(site.sensor.current().named(name)), 0)

    return one() if proc.happened(one, _ABSENT_S) else None


def _signalled(pid: int | None, number: signal.Signals) -> bool:
    """Whether it was there to be signalled. A number that was given anew in between would be one of this test's."""
    if not pid:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _kill(name: str) -> Callable[[Site, Fault], bool]:
    return lambda site, fault: _signalled(_pid(site, name or worker_of(fault.target)), signal.SIGKILL)


def _freeze(name: str) -> Callable[[Site, Fault], bool]:
    return lambda site, fault: _stopped(_pid(site, name or worker_of(fault.target)), fault)


def _stopped(pid: int | None, fault: Fault) -> bool:
    """SIGSTOP for as long as the fault lasts."""
    struck = _signalled(pid, signal.SIGSTOP)
    if struck:
        time.sleep(fault.lasts_s)
        _signalled(pid, signal.SIGCONT)
    return struck


def _hang(site: Site, fault: Fault) -> bool:
    """SIGSTOP without an end: the supervisor has to find it. Nobody else strikes this kind of child meanwhile."""
    with site.locks[fault.target]:
        name = {"worker": worker_of("cap0"), "uploader": UPLOADER, "enforcer": ENFORCER}[fault.target]
        pid = _pid(site, name)
        struck = _signalled(pid, signal.SIGSTOP)
        assert pid is None or proc.happened(lambda: not proc.alive(pid), _HUNG_S), f"{name} hangs, and nobody minds"
        return struck


def _excluded(site: Site, fault: Fault) -> bool:
    """The config file leaves a link out, and takes it back."""
    oracle, known, closed = site.oracles["cap2"], site.epochs("cap2"), len(site.books("cap2"))
    oracle.pause()
    _reload(site, "^cap2$")
    # A sensor that was starting meanwhile, and died of the signal, has read the file by itself, and closes the books.
    _await_closed(site, "cap2", closed)
    time.sleep(fault.lasts_s)
    _reload(site, "")
    site.await_new_epoch("cap2", known)
    oracle.resume()
    return True


def _reload(site: Site, pattern: str) -> None:
    site.exclude(pattern)
    site.sensor.current().signal(signal.SIGHUP)


def _await_closed(site: Site, link: str, closed: int) -> None:
    """Until the vSensor has all of the link's epoch before, or a stop has counted the rest."""
    assert proc.happened(lambda: len(site.books(link)) > closed, _CLOSED_S), f"the old epoch of {link} is never closed"


def _kill_supervisor(site: Site, _: Fault) -> bool:
    with site.locks["retired"]:
        return site.sensor.kill()


def _change_key(site: Site, _: Fault) -> bool:
    """As README says: both ends get the next key, one after the other, and then lose the old one."""
    old = site.keys["vsensor"]["VSENSOR_HMAC_KEY"]
    new = f"{KEY}-{int(old.removeprefix(KEY).strip('-') or 0) + 1}"
    both, alone = {"VSENSOR_HMAC_KEY": old, "VSENSOR_HMAC_KEY_NEXT": new}, {"VSENSOR_HMAC_KEY": new}
    for end, keys in (("sensor", both), ("vsensor", both), ("vsensor", alone), ("sensor", alone)):
        site.keys[end] = keys
        service = site.sensor if end == "sensor" else site.vsensor
        service.restart()
    return True


def _serving(kind: str, number: signal.Signals) -> Callable[[Site, Fault], bool]:
    def strike(site: Site, fault: Fault) -> bool:
        found: list[int] = []

        def there() -> bool:
            found[:] = site.serving()[kind]
            return bool(found)

        pid = found[0] if proc.happened(there, _ABSENT_S) else None
        return _stopped(pid, fault) if number is signal.SIGSTOP else _signalled(pid, number)

    return strike


def _away(site: Site, fault: Fault) -> bool:
    site.vsensor.stop()
    time.sleep(fault.lasts_s)
    site.vsensor.go_on()
    return True


@contextmanager
def _rule(namespace: Namespace, rule: str) -> Iterator[None]:
    namespace.run("nft", f"table inet chaos {{ chain in {{ type filter hook input priority 0; {rule}; }}; }}")
    try:
        yield
    finally:
        namespace.run("nft", "delete table inet chaos")


def _line(rule: str) -> Callable[[Site, Fault], bool]:
    def strike(site: Site, fault: Fault) -> bool:
        with _rule(site.world.collector, rule):
            time.sleep(fault.lasts_s)
        return True

    return strike


def _slow(site: Site, fault: Fault) -> bool:
    site.world.sensor.run(*_QDISC, "add", *_UP, "tbf", "rate", "2mbit", "burst", "32k", "latency", "50ms")
    time.sleep(fault.lasts_s)
    site.world.sensor.run(*_QDISC, "delete", *_UP)
    return True


def _full(name: str) -> Callable[[Site, Fault], bool]:
    def strike(site: Site, fault: Fault) -> bool:
        disk = {"store": site.store, "spool": site.spool}[name]
        struck = disk.fill()
        time.sleep(fault.lasts_s)
        disk.empty()
        return struck

    return strike


def _clock(name: str) -> Callable[[Site, Fault], bool]:
    def strike(site: Site, fault: Fault) -> bool:
        site.clocks[name].set(int(fault.target))
        return True

    return strike


def _down(site: Site, fault: Fault) -> bool:
    """The oracle rests meanwhile: what it would send onto a dead link was never there to be captured."""
    oracle = site.oracles["cap1"]
    oracle.pause()
    site.world.sensor.run("ip", "link", "set", "cap1", "down")
    time.sleep(fault.lasts_s)
    site.world.sensor.run("ip", "link", "set", "cap1", "up")
    for namespace in (site.world.sensor, site.world.generator):
        proc.eventually("it carries", lambda: namespace.links()["cap1"]["operstate"] == "UP")  # noqa: B023
    oracle.resume()
    return True


def _anew(site: Site, fault: Fault) -> bool:
    oracle, known, closed = site.oracles["cap1"], site.epochs("cap1"), len(site.books("cap1"))
    with site.locks["retired"]:
        oracle.pause()
        site.world.remove_link("cap1")
        time.sleep(fault.lasts_s)
        site.world.add_link("cap1")
        site.await_new_epoch("cap1", known)
        oracle.resume()
        _await_closed(site, "cap1", closed)
    return True


DO: Final[dict[str, Callable[[Site, Fault], bool]]] = {
    "kill worker": _kill(""),
    "freeze worker": _freeze(""),
    "kill uploader": _kill(UPLOADER),
    "freeze uploader": _freeze(UPLOADER),
    "kill enforcer": _kill(ENFORCER),
    "freeze enforcer": _freeze(ENFORCER),
    "kill supervisor": _kill_supervisor,
    "freeze supervisor": lambda site, fault: _stopped(site.sensor.current().pid, fault),
    "restart sensor": lambda site, _: site.sensor.restart(),
    "hang": _hang,
    "exclude by SIGHUP": _excluded,
    "change key": _change_key,
    "kill server": _serving("server", signal.SIGKILL),
    "freeze server": _serving("server", signal.SIGSTOP),
    "kill streamer": _serving("streamer", signal.SIGKILL),
    "kill janitor": _serving("janitor", signal.SIGKILL),
    "kill keeper": lambda site, _: site.vsensor.kill(),
    "vSensor away": _away,
    "black hole": _line(f"tcp dport {PORT} drop"),
    "reset": _line(f"tcp dport {PORT} reject with tcp reset"),
    "slow line": _slow,
    "lossy line": _line(f"tcp dport {PORT} numgen random mod 100 < 20 drop"),
    "store full": _full("store"),
    "spool full": _full("spool"),
    "sensor's clock": _clock("sensor"),
    "vSensor's clock": _clock("vsensor"),
    "link down": _down,
    "link anew": _anew,
}


class Chaos:
    """Carries a plan out, each lane in a thread of its own. `struck`: how many of each kind hit something."""

    def __init__(self, site: Site, plan: Iterable[Fault]) -> None:
        self.struck: Counter[str] = Counter()
        self.failed: list[str] = []
        self._site = site
        self._began_s = time.monotonic()
        self._lanes = [
            threading.Thread(target=self._follow, args=(name, faults), name=name)
            for name, faults in lanes(plan).items()
        ]

    def run(self) -> None:
        """Returns when all of the plan is done."""
        for lane in self._lanes:
            lane.start()
        for lane in self._lanes:
            lane.join()

    def _follow(self, lane: str, faults: list[Fault]) -> None:
        for fault in faults:
            time.sleep(max(0.0, self._began_s + fault.at_s - time.monotonic()))  # when the fault comes
            try:
                with self._site.locks.get(lane, threading.Lock()):
                    began_s = time.monotonic()
                    struck = any(DO[fault.kind](self._site, fault) for _ in range(_TRIES))
            except Exception as e:  # noqa: BLE001 -- a thread's exception is nobody's; the test fails with all of them
                self.failed.append(f"{fault}: {e!r}")
                return
            self.struck[fault.kind] += struck
            late_s, did = began_s - self._began_s - fault.at_s, "did" if struck else "MISSED"
            print(f"{began_s - self._began_s:8.3f} s {did} {fault}: {late_s:.1f} s late")
