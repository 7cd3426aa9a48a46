"""Environment, config file and defaults in; one frozen Settings out, or every fault at once.

Nothing else reads the environment: functions here take it as a mapping. Invariant: the key is in `Settings.hmac_key`
and in nothing that is printed, logged, raised or written.
"""

from __future__ import annotations

import difflib
import socket
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import ValidationError

from . import configfile
from .errors import ConfigurationError
from .transport.compression import Policy
from .values import DEFAULT_ROUTE, flaw
from .variables import (
    BPF,
    CA_FILE,
    CONFIG_PATH,
    DEVICE,
    EXCLUDE,
    HOSTNAME,
    INCLUDE,
    KEY,
    KEY_FILE,
    KEY_NEXT,
    KEY_NEXT_FILE,
    OLD_NAMES,
    ROWS,
    SENSOR_NAME,
    STATUS_SOCKET,
    Form,
    Row,
    describe,
)

_SECRETS: Final = (KEY, KEY_NEXT)
_SECRET_FILES: Final = {KEY_FILE: KEY, KEY_NEXT_FILE: KEY_NEXT}
_KEYS: Final = (*_SECRETS, *_SECRET_FILES)
_OF_INTERFACES: Final = (CONFIG_PATH, DEVICE, EXCLUDE, INCLUDE)
_MASK: Final = "********"
_PREFIXES: Final = ("OSSENSOR_", "VSENSOR_")  # a name that begins so and is unknown is probably mistyped
_SHORT_KEY_BYTES: Final = 16  # 128 bits if every bit is random; RFC 2104 section 3 wants the digest's 32
_SHOWN_CHARACTERS: Final = 200


@dataclass(frozen=True)
class Settings:
    """What the operator asked for, checked. `network_device` is None, DEFAULT_ROUTE or names of interfaces."""

    vsensor_hostname: str
    vsensor_port: int
    hmac_key: bytes = field(repr=False)
    hmac_key_next: bytes = field(repr=False)
    tls: Literal["key", "ca"]
    ca_file: Path | None
    network_device: tuple[str, ...] | None
    config_path: Path
    debug: int
    antigena_enabled: bool
    antigena_time_period_s: int
    antigena_mode: Literal["enforce", "observe"]
    antigena_protect: tuple[IPv4Network | IPv6Network, ...]
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    bpf: str
    sensor_name: str
    engine: Literal["auto", "ring", "pypcap"]
    snaplen: int
    complete_checksums: bool
    batch_ms: int
    compression: Policy
    ring_mb: int
    buffer_mb: int
    memory_mb: int
    drain_s: int
    spool_dir: Path | None
    spool_mb: int
    metrics_address: tuple[str, int] | None
    status_socket: str
    log_format: Literal["text", "json"]
    user: str
    seccomp: Literal["auto", "kill", "log", "off"]
    capture_credential_endpoints: bool


@dataclass(frozen=True)
class Loaded:
    """Settings with what is to be told of them. `texts` has each variable as text, the key masked."""

    settings: Settings
    sources: dict[str, str]
    warnings: list[str]
    texts: dict[str, str]

    def config_lines(self) -> list[configfile.Line]:
        """What the generated config file holds: everything but the key, and the file's own path.

        Nor where the next key is: what is written here stays in force, and a key that was changed is to be dead.
        """
        lines = []
        for row in describe():
            explicit = self.sources[row.name] != "default" and row.name != KEY_NEXT_FILE
            if row.name not in {*_SECRETS, CONFIG_PATH}:
                text = self.texts[row.name] if explicit else row.default
                lines.append(configfile.Line(row.name, text, explicit, row.meaning))
        return lines


@dataclass(frozen=True)
class InterfaceSettings:
    """What decides which interfaces are captured; `remarks` are warnings, and faults of other variables."""

    network_device: tuple[str, ...] | None
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    remarks: list[str]


def bpf_fault(expression: str) -> str | None:
    """Why libpcap does not compile the expression for Ethernet, or None. Needs no privilege and opens nothing."""
    import pcap  # noqa: PLC0415  pypcap is needed by no other setting

    try:
        pcap.bpf(expression.encode(), pcap.DLT_EN10MB)
    except OSError as e:
        text = e.args[0] if e.args else "refused"
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return None


def interface_names() -> list[str]:
    """The names of the interfaces of this network namespace."""
    return [name for _, name in socket.if_nameindex()]


class _Findings:
    """The texts of the sources, and what is wrong with them: the first fault of each variable."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.file: dict[str, str] = {}
        self.given: Mapping[str, str] = ChainMap(self.environment, self.file)
        self.faults: dict[str, list[str]] = {}
        self.warnings: list[str] = []

    def fault(self, name: str, reason: str = "") -> None:
        why = f": {reason}" if reason else ""
        self.faults.setdefault(name, [f"{name}: {self._got(name)}{why}; allowed: {ROWS[name].allowed}"])

    def _got(self, name: str) -> str:
        text = self.given.get(name)
        if text is None:
            return "not given"
        if name in _SECRETS or (name in _SECRET_FILES and not text.startswith("/")):
            # The files too: what is no absolute path may be the key itself, given under the wrong name.
            return "got a value that is not shown"
        return f"got {text[:_SHOWN_CHARACTERS]!r}" + ("..." if len(text) > _SHOWN_CHARACTERS else "")

    def error(self, faults: list[str]) -> ConfigurationError:
        """The faults, with the warnings as notes: a mistyped name explains why another is `not given`."""
        error = ConfigurationError(faults)
        for warning in self.warnings:
            error.add_note(warning)
        return error

    def in_order(self, names: Iterable[str] = tuple(ROWS)) -> list[str]:
        return [line for name in names for line in self.faults.get(name, ())]

    def take(self, source: Mapping[str, str], into: dict[str, str]) -> None:
        """Keeps the known variables. Empty is not given: task definitions pass on parameters that nobody filled in."""
        into.update({name: source[name] for name in ROWS if source.get(name)})
        for old, new in OLD_NAMES.items():
            if text := source.get(old):
                self.warnings.append(f"{old} is the old name of {new}")
                if into.setdefault(new, text) != text:
                    self.fault(new, f"{old}, its old name, is given too and differs")
        for name, text in into.items():
            if self.given[name] is text and (what := flaw(text)):  # not when a stronger source hides it
                self.fault(name, f"it {what}")

    def warn_of_unknown(self, names: Iterable[str], where: str) -> None:
        for name in names:
            if name not in ROWS and name not in OLD_NAMES:
                nearest = difflib.get_close_matches(name, ROWS, n=1, cutoff=0.0)[0]
                self.warnings.append(f"{name!r} in the {where} is no variable of ossensor; did you mean {nearest}?")

    def check_keys(self) -> None:
        """A key, and no key twice: with both of a pair, which one signs would be a matter of luck to the reader."""
        if KEY not in self.given and KEY_FILE not in self.given:
            self.fault(KEY, f"give it, or {KEY_FILE}")
        for file, name in _SECRET_FILES.items():
            if file in self.given and name in self.given:
                self.fault(name, f"{file} is given too, and only one of the two may be")

    def form(self) -> Form:
        """The values; a variable with a fault has its default. Ends: each round leaves at least one more out."""
        while True:
            try:
                return Form.of(
                    environment={n: t for n, t in self.environment.items() if n not in self.faults},
                    file={n: t for n, t in self.file.items() if n not in self.faults},
                )
            except ValidationError as e:
                problems = e.errors(include_url=False, include_input=False)
            for problem in problems:
                self.fault(str(problem["loc"][0]), str(problem.get("ctx", {}).get("error", "")))


def _gather(environ: Mapping[str, str]) -> tuple[_Findings, Path]:
    """The texts of environment and config file, and the path of the latter."""
    findings = _Findings()
    findings.take(environ, findings.environment)
    findings.warn_of_unknown([name for name in environ if name.startswith(_PREFIXES)], "environment")
    path = Path(findings.environment.get(CONFIG_PATH, ROWS[CONFIG_PATH].default)).absolute()
    if CONFIG_PATH in findings.faults:
        return findings, path
    try:
        texts = configfile.read(path)
    except ConfigurationError as e:
        findings.faults[CONFIG_PATH] = e.faults
        return findings, path
    if texts.pop(CONFIG_PATH, None):
        findings.warnings.append(f"{CONFIG_PATH} counts in the environment only, not in {path}")
    for pair in _SECRET_FILES.items():
        if any(name in findings.environment for name in pair):
            # One setting under two names: the environment's choice of one hides either in the file.
            texts = {name: text for name, text in texts.items() if name not in pair}
    findings.warn_of_unknown(texts, f"file {path}")
    findings.take(texts, findings.file)
    return findings, path


def _names(names: Iterable[str]) -> str:
    """In a line for people; the kernel, too, lets any character but a few stand in a name."""
    return ", ".join(name if name.isprintable() else ascii(name) for name in names)


def _judge(
    findings: _Findings, bpf_fault: Callable[[str], str | None], interface_names: Callable[[], Sequence[str]]
) -> Form:
    """The values, with all faults in `findings`."""
    if HOSTNAME not in findings.given:
        findings.fault(HOSTNAME)
    findings.check_keys()
    form = findings.form()
    if form.network_device and form.network_device != DEFAULT_ROUTE:
        existing = interface_names()
        if missing := [name for name in form.network_device if name not in existing]:
            findings.fault(DEVICE, f"not here: {_names(missing)}; here: {_names(existing)}")
    if form.bpf and (reason := bpf_fault(form.bpf)):
        findings.fault(BPF, reason)
    if 0 < len(form.hmac_key or form.hmac_key_file) < _SHORT_KEY_BYTES:
        findings.warnings.append(f"the HMAC key is shorter than {_SHORT_KEY_BYTES} bytes, and can be guessed")
    if 0 < len(form.hmac_key_next or form.hmac_key_next_file) < _SHORT_KEY_BYTES:
        findings.warnings.append(f"{KEY_NEXT} is shorter than {_SHORT_KEY_BYTES} bytes, and can be guessed")
    if form.ca_file is not None and form.tls == "key":
        findings.warnings.append(f"{CA_FILE} counts with VSENSOR_TLS=ca only; the certificate is proven with the key")
    return form


def load(
    environ: Mapping[str, str],
    *,
    bpf_fault: Callable[[str], str | None] = bpf_fault,
    interface_names: Callable[[], Sequence[str]] = interface_names,
) -> Loaded:
    """The effective settings. Raises ConfigurationError with all faults, each naming its variable."""
    findings, path = _gather(environ)
    form = _judge(findings, bpf_fault, interface_names)
    if findings.faults:
        raise findings.error(findings.in_order())
    values = {f.name: getattr(form, f.name) for f in fields(Settings)}
    values |= {"hmac_key": form.hmac_key or form.hmac_key_file}
    values |= {"hmac_key_next": form.hmac_key_next or form.hmac_key_next_file}
    settings = Settings(**values)
    sources, texts = {}, {}
    for row in describe():
        in_environment, in_file = row.name in findings.environment, row.name in findings.file
        sources[row.name] = "environment" if in_environment else f"file {path}" if in_file else "default"
        texts[row.name] = findings.given.get(row.name, row.default)
    for name in _SECRETS:
        if texts[name]:
            texts[name] = _MASK
    texts[SENSOR_NAME] = settings.sensor_name
    return Loaded(settings, sources, findings.warnings, texts)


def load_interface_settings(
    environ: Mapping[str, str], *, interface_names: Callable[[], Sequence[str]] = interface_names
) -> InterfaceSettings:
    """What decides which interfaces are captured, whatever is wrong elsewhere.

    Raises ConfigurationError for faults of these variables, and for a config file that cannot be read.
    """
    findings, _ = _gather(environ)
    form = _judge(findings, lambda _: None, interface_names)
    if faults := findings.in_order(_OF_INTERFACES):
        raise findings.error(faults)
    remarks = [*findings.in_order(), *findings.warnings]
    return InterfaceSettings(form.network_device, form.exclude, form.include, remarks)


class StatusSettings(NamedTuple):
    """Where to ask for a sensor's status. `faults` are of what is given here, whatever the variable."""

    address: str
    faults: list[str]


def load_status_settings(environ: Mapping[str, str]) -> StatusSettings:
    """Raises ConfigurationError for faults of the address, and for a config file that cannot be read.

    That something is not given is no fault here: who asks need not have the sensor's environment, nor its key.
    """
    findings, _ = _gather(environ)
    form = _judge(findings, bpf_fault, interface_names)
    if faults := findings.in_order((CONFIG_PATH, STATUS_SOCKET)):
        raise findings.error(faults)
    return StatusSettings(form.status_socket, findings.in_order(findings.given))


def load_vsensor_keys(environ: Mapping[str, str]) -> list[bytes]:
    """The keys, for the collector: from the environment only, by the sensor's rules. Raises ConfigurationError."""
    findings = _Findings()
    findings.take({name: environ[name] for name in _KEYS if name in environ}, findings.environment)
    findings.check_keys()
    form = findings.form()
    if findings.faults:
        raise findings.error(findings.in_order())
    return [key for key in (form.hmac_key or form.hmac_key_file, form.hmac_key_next or form.hmac_key_next_file) if key]


__all__ = [
    "InterfaceSettings",
    "Loaded",
    "Row",
    "Settings",
    "StatusSettings",
    "bpf_fault",
    "describe",
    "interface_names",
    "load",
    "load_interface_settings",
    "load_status_settings",
    "load_vsensor_keys",
]
