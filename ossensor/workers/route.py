"""The uploader's route to the vSensor: looked up, guarded, proven. What the endpoint's table wants is done here.

Invariant: a request is signed and addressed (`stamp`) only while the endpoint is open: at an address that every capture
filter leaves out, where who is there has proved to hold the key that signs it.

Looking up and proving wait for others, so each has a thread, which reports and touches nothing here.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import socket
import ssl
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from ossensor.complaints import Complaints
from ossensor.errors import Exit
from ossensor.filters import Flow
from ossensor.logs import SEND, fields
from ossensor.steady import steady_clock
from ossensor.transport.client import Client, Proof
from ossensor.transport.direct import State as DirectState
from ossensor.transport.endpoint import Endpoint, State
from ossensor.transport.hostport import spelled
from ossensor.transport.registration import Question
from ossensor.transport.signing import Key, Nonce
from ossensor.transport.stamp import Stamp

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """Who the vSensor is, and how it is known."""

    host: str
    port: int
    keys: tuple[Key, ...]  # the one in use, and the next one while they are being changed
    pinned: bool  # the vSensor's certificate is proven with the key, not verified by CAs
    sensor: str
    application: str


class Addresses(NamedTuple):
    """What a lookup gave."""

    found: list[str]


@contextmanager
def ends_the_process() -> Iterator[None]:
    """Around a thread's work: a bug in it is told, and ends all of us. A thread that is silently gone ends nothing."""
    try:
        yield
    except Exception:  # noqa: BLE001  the last frame of a thread
        traceback.print_exc()
        os._exit(Exit.INTERNAL)


_NO_THREAD: Final = "no thread to be had"


class Route:
    """The endpoint, and what is known of who is there. `report` is called from threads; `guard` asks the supervisor."""

    def __init__(
        self,
        to: Destination,
        context: ssl.SSLContext,
        report: Callable[[Addresses | Proof], None],
        guard: Callable[[list[Flow]], bool],
    ) -> None:
        self.endpoint = Endpoint(to.host, to.port, random.Random())  # noqa: S311  jitter, not a secret
        self.complaints = Complaints(log)
        self._to = to
        self._report = report
        self._guard = guard
        self._context = context
        self._guards: deque[Callable[[float, bool], None]] = deque()  # who hears the supervisor's next answer
        self._proof: Proof | None = None  # of the address in use
        self._nonce_run = secrets.token_hex(16)
        self._nonce_count = 0
        # Not the wall clock: four requests are signed while the first that was refused comes back, so each time it is
        # set, four would be refused.
        self._clock = steady_clock()
        self._clock_offset_s = 0
        self.proving_since_s: float | None = None
        self.scouting_since_s: float | None = None
        self._delivers = False  # a batch was answered since the last failure of anything
        self.trouble = ""  # why the endpoint is not open, or was closed last

    # -- threads --------------------------------------------------------------------------------------------------

    def _resolve(self) -> None:
        """Getaddrinfo has no time limit."""
        try:
            found = socket.getaddrinfo(self._to.host.strip("[]"), self._to.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as e:
            log.debug("lookup: %s", e)
            found = []
        self._report(Addresses(list(dict.fromkeys(str(entry[4][0]) for entry in found))))

    def _prove(self, question: Question) -> None:
        """By a client of its own: a question to an address that was given up may be under way still."""
        with ends_the_process():
            client = Client(self._to.host, self._to.port, self._context, self._to.application)
            self._report(client.prove(question))

    def _thread(self, work: Callable[[], None], name: str, otherwise: Addresses | Proof) -> None:
        try:
            threading.Thread(target=work, name=name, daemon=True).start()
        except RuntimeError:  # the pids limit
            self._report(otherwise)

    # -- the main thread ------------------------------------------------------------------------------------------

    def attend(self, now_s: float) -> None:
        """Does what the endpoint wants now; the outcome comes by `report`, or from the supervisor."""
        self._attend_direct(now_s)
        match self.endpoint.wants(now_s):
            case State.UNRESOLVED:
                self.endpoint.asked()
                self._thread(self._resolve, "resolver", Addresses([]))
            case State.UNGUARDED:
                self.endpoint.asked()
                self._ask_guard([], self._guarded, now_s)
            case State.UNPROVEN:
                self.endpoint.asked()
                self.proving_since_s = now_s
                self._ask(self.endpoint.where, self.endpoint.generation, scout=False)
            case _:
                pass

    def _attend_direct(self, now_s: float) -> None:
        direct = self.endpoint.direct
        match direct.wants(now_s):
            case DirectState.UNGUARDED:
                generation = direct.asked()
                self._ask_guard([direct.flow], lambda now_s, ok: direct.guarded(generation, now_s, ok=ok), now_s)
            case DirectState.UNPROVEN if self.scouting_since_s is None:  # or the last one is not back yet
                self.scouting_since_s = now_s
                self._ask(direct.flow, direct.asked(), scout=True)
            case DirectState.READY:
                if self.endpoint.maybe_divert(now_s):
                    log.info("to the vSensor's direct address", extra=fields(address=spelled(self.endpoint.where)))
            case _:
                pass

    def _ask_guard(self, more: list[Flow], then: Callable[[float, bool], None], now_s: float) -> None:
        """Asks the supervisor to leave out all that may be connected to, and `more`. It answers in order."""
        if self._guard([*self.endpoint.flows, *more]):
            self._guards.append(then)
        else:
            then(now_s, False)

    def guarded(self, now_s: float, *, ok: bool) -> None:
        """The supervisor's answer to the oldest question."""
        self._guards.popleft()(now_s, ok)

    def _guarded(self, now_s: float, ok: bool) -> None:  # noqa: FBT001  as a question's answer comes
        if not ok:
            self.trouble = "the sensor's own upload cannot be left out of the capture"
        self.endpoint.guarded(now_s, ok=ok)

    def _ask(self, where: Flow, generation: int, *, scout: bool) -> None:
        """Has a thread ask who is there."""
        nonces = tuple(self._nonce() for _ in self._to.keys)
        question = Question(
            self._to.sensor,
            where.address,
            generation,
            self._to.keys,
            self.vsensor_time_s(),
            nonces,
            bound=self._to.pinned,
            port=where.port,
            scout=scout,
        )
        self._thread(partial(self._prove, question), "prover", Proof(question, "no thread", trouble=_NO_THREAD))

    def stamp(self) -> Stamp:
        """For one request, now."""
        if self._proof is None or self._proof.key is None:
            raise AssertionError("only a proof opens the endpoint")
        (address, port), generation = self.endpoint.where, self.endpoint.generation
        now_s, nonce = self.vsensor_time_s(), self._nonce()
        return Stamp(address, generation, now_s, nonce, self._proof.key, self._proof.pin, port)

    def _nonce(self) -> Nonce:
        self._nonce_count += 1
        return Nonce(self._nonce_run, self._nonce_count)

    def vsensor_time_s(self) -> int:
        """As far as it has told us."""
        return int(self._clock()) + self._clock_offset_s

    def resolved(self, addresses: Addresses, now_s: float) -> None:
        if not addresses.found:
            self.trouble = "VSENSOR_HOSTNAME does not resolve"
            self.complaints.say(self.trouble, host=self._to.host)
        self.endpoint.resolved(addresses.found, now_s)

    def proved(self, proof: Proof, now_s: float) -> None:
        """Takes in what an address said, or did not say, to the question who is there."""
        question = proof.question
        if question.scout:
            self._scouted(proof, now_s)
            return
        self.proving_since_s = None
        log.log(SEND, "registration", extra=fields(address=question.address, answer=proof.detail))
        if proof.key is None:
            self.complaints.say(proof.trouble, host=self._to.host, address=question.address, why=proof.detail)
            trouble = f"{proof.trouble} ({proof.detail})"
            self.failed(question.generation, now_s, proof.retry_after_s, trouble=trouble)
            return
        if question.generation != self.endpoint.generation:
            return  # a batch failed meanwhile, and the address was given up: the next proof is another's
        if proof.pin and (self._proof is None or self._proof.pin != proof.pin):
            where = fields(host=self._to.host, address=question.address, certificate_sha256=proof.pin)
            log.info("the vSensor has proved to hold the key; its certificate is pinned", extra=where)
        self._proof = proof
        self.trouble = ""
        self.learn_time(proof.vsensor_time_s, question.created_s)
        self.endpoint.proven(now_s)
        diverted = self.endpoint.diverted
        if fault := self.endpoint.told(proof.welcome.direct, now_s):
            self.complaints.say("the vSensor's direct address is refused", address=proof.welcome.direct, why=fault)
        elif diverted and not self.endpoint.diverted:
            self.complaints.say("the vSensor's direct address does not name itself; back to the name")

    def _scouted(self, proof: Proof, now_s: float) -> None:
        self.scouting_since_s = None
        question = proof.question
        log.log(SEND, "direct address asked", extra=fields(address=question.address, answer=proof.detail))
        if proof.key is None:
            where = {"address": question.address, "port": question.port}
            self.complaints.say("the vSensor's direct address is of no use", **where, why=proof.detail)
        self.endpoint.direct.scouted(question.generation, now_s, ok=proof.key is not None)

    def failed(self, generation: int, now_s: float, retry_after_s: float = 0.0, *, trouble: str = "") -> None:
        """No answer that counts came from the address of that generation; `trouble`: why, for people."""
        self.trouble = trouble or self.trouble
        self._delivers = False
        diverted = self.endpoint.diverted
        self.endpoint.failed(generation, now_s, retry_after_s)
        if diverted and not self.endpoint.diverted:
            log.warning("the vSensor's direct address fails; back to the name", extra=fields(host=self._to.host))

    def delivered(self, generation: int, address: str) -> None:
        """A batch was answered there."""
        self.endpoint.succeeded(generation)
        if not self._delivers:
            self._delivers = True
            log.info("the vSensor answers", extra=fields(host=self._to.host, address=address))

    def learn_time(self, vsensor_time_s: int, asked_s: int) -> None:
        """Only a signed reply may move our idea of the time, and only the offset: the clock stays its owner's.

        `asked_s`: the request's `created`. A reply that was stamped later than that, and is behind when it is heard,
        took its time; we would lag behind by as much.
        """
        error_s = vsensor_time_s - self.vsensor_time_s()
        if error_s > 1 or (error_s < -1 and vsensor_time_s < asked_s - 1):
            self._clock_offset_s += error_s
            self.complaints.say("the clocks differ; signing by the vSensor's", offset_s=self._clock_offset_s)
