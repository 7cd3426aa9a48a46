"""`ossensor vsensor`: its arguments, what is wrong with them, and the numbered way to a running collector."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hmac
import os
import re
import socket
import sqlite3
import ssl
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

from ossensor.antigena.token import Token, load_token
from ossensor.backoff import Backoff
from ossensor.durable import sync_folder
from ossensor.errors import ConfigurationError, Exit
from ossensor.transport.hostport import direct_flow, spelled
from ossensor.transport.protocol import MAX_FILTER_CHARACTERS, MAX_SECTION_BYTES, Limits, Welcome, packet_filter_ok
from ossensor.transport.signing import Key

from . import addresses, certificate, retention
from .keeper import Job, Keeper
from .layout import FOLDER_MODE, Layout
from .report import Report
from .retention import Keeping
from .streams import arguments as streams
from .streams.notices import Announcer
from .streams.process import STOP_S

# Far above what a sensor has on its way by itself.
_WINDOW_MAX = 64


class _Service(NamedTuple):
    """What is served, and to whom."""

    keys: Mapping[str, Key]
    tokens: tuple[Token | None, Token | None]  # the operator's, and the one that may only look
    welcome: Welcome
    keeping: Keeping


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="address to listen on; [::]:8443 for IPv6")
    parser.add_argument(
        "--store", required=True, metavar="DIR", help="where pcapng files, index and certificate are kept"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain in PEM, instead of a self-signed one")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key, unencrypted")
    parser.add_argument(
        "--rotate-mb", default="1024", metavar="N", help="begin a new file when one has N MiB (default: 1024)"
    )
    parser.add_argument(
        "--rotate-minutes", default="60", metavar="N", help="begin a new file when one is N minutes old (default: 60)"
    )
    parser.add_argument(
        "--keep-days", metavar="N", help="remove files whose newest batch came more than N days ago (default: keep all)"
    )
    parser.add_argument(
        "--keep-gb",
        metavar="N",
        help="remove the oldest files while the store's take more than N GiB (default: keep all)",
    )
    parser.add_argument(
        "--compress-closed",
        action="store_true",
        help="compress files that are closed, with zstd, when the machine idles",
    )
    parser.add_argument(
        "--no-fsync", action="store_true", help="acknowledge before the disk has flushed; a power cut may lose batches"
    )
    parser.add_argument(
        "--packet-filter",
        default="",
        metavar="EXPRESSION",
        help="what every sensor is to send, at most, in libpcap's language (pcap-filter(7))",
    )
    parser.add_argument(
        "--advertise",
        default="",
        metavar="ADDRESS:PORT",
        help="where sensors that registered through a load balancer reach this vSensor past it; an IP address, no name",
    )
    parser.add_argument(
        "--largest-batch-mb", default="8", metavar="N", help="sensors send no larger batches: 1 to 8 MiB (default: 8)"
    )
    parser.add_argument(
        "--largest-window",
        default="64",
        metavar="N",
        help="sensors have no more batches of one interface on their way, by themselves 4: 1 to 64 (default: 64)",
    )
    parser.add_argument(
        "--operator-token-file",
        metavar="FILE",
        help="the token that `ossensor antigena` shows; without one, nothing can be ordered, and nothing looked at",
    )
    parser.add_argument(
        "--viewer-token-file",
        metavar="FILE",
        help="another one, which may only look: for `ossensor top`, Prometheus (/metrics) and the like",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of sentences")
    streams.add_arguments(parser)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The exit code of a collector that ran until it was told to stop. Faults of the configuration go to stderr."""
    try:
        return _run(args, environ)
    except ConfigurationError as e:
        return _refuse(e)


def _refuse(error: ConfigurationError) -> int:
    for fault in error.faults:
        sys.stderr.write(f"vsensor: {fault}\n")
    return Exit.CONFIGURATION


def _run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    # pydantic is slow to import, and `--help` needs none of it.
    from ossensor.settings import bpf_fault, load_vsensor_keys  # noqa: PLC0415

    faults: list[str] = []
    # 1. Everything that can be judged without touching anything, so that all faults are shown at once.
    address = addresses.parse("--listen", args.listen, faults)
    keeping = _keeping(args, faults)
    batch_mb = _number("--largest-batch-mb", args.largest_batch_mb, MAX_SECTION_BYTES >> 20, faults, " of MiB")
    window = _number("--largest-window", args.largest_window, _WINDOW_MAX, faults)
    if (args.tls_cert is None) != (args.tls_key is None):
        faults.append("--tls-cert and --tls-key: give both, or neither for a self-signed certificate")
    if not packet_filter_ok(args.packet_filter):
        faults.append(f"--packet-filter: not printable ASCII, or longer than {MAX_FILTER_CHARACTERS} characters")
    elif args.packet_filter and (fault := bpf_fault(args.packet_filter)):
        faults.append(f"--packet-filter: {args.packet_filter!r}: {fault}")
    make_streams = streams.check(args, faults)
    try:
        limits = Limits(batch_mb << 20, window)
        welcome = Welcome(args.packet_filter, args.advertise and spelled(direct_flow(args.advertise)), limits)
    except ValueError as e:
        faults.append(f"--advertise: {args.advertise!r}: {e}")
    keys: list[bytes] = []
    try:
        keys = load_vsensor_keys(environ)
    except ConfigurationError as e:
        faults += e.faults
    tokens = _tokens(args, keys, faults)
    # 2. The folder: the certificate and the lock lie in it.
    layout = Layout(Path(args.store).absolute())
    lock = _lock(layout, faults)
    if faults or lock is None:
        raise ConfigurationError(faults)
    with lock:
        service = _Service({key.id: key for key in map(Key, keys)}, tokens, welcome, keeping)
        return _listen(args, layout, address, service, make_streams)


def _listen(
    args: argparse.Namespace,
    layout: Layout,
    address: tuple[str, int],
    service: _Service,
    make_streams: Callable[[], streams.Streams | None],
) -> int:
    # 3. The certificate, before the port: a port that answers must answer with it.
    pair = _certificate(args, layout, address[0])
    # 4. The ports, before the fork: every successor inherits them.
    outputs = make_streams()
    listener = addresses.listen("--listen", address)
    with listener:
        report = Report(_write, layout.root, as_json=args.json)
        page = service.tokens[0] is not None
        report.listening(addresses.text(listener), pair.certificate, pair.sha256, page=page)
        return _keep(layout, pair, service, listener, report, args, outputs)


def _keep(
    layout: Layout,
    pair: certificate.Certificate,
    service: _Service,
    listener: socket.socket,
    report: Report,
    args: argparse.Namespace,
    outputs: streams.Streams | None,
) -> int:
    def serve() -> int:
        # After the fork: the parent needs no web server, and stays small and boring without one.
        from .server import Settings, run  # noqa: PLC0415

        report.serving(os.getpid())
        announcer = Announcer(outputs.serving, outputs.books) if outputs is not None else None
        try:
            settings = Settings(
                *(service.keys, layout.root, pair, not args.no_fsync, service.keeping),
                welcome=service.welcome,
                operator_token=service.tokens[0],
                viewer_token=service.tokens[1],
            )
            return run(settings, listener, report, announcer)
        except ConfigurationError as e:
            return _refuse(e)
        except (OSError, sqlite3.OperationalError) as e:
            # The disk is full, or broken, and may be well again: the keeper tries, ever more rarely.
            sys.stderr.write(f"vsensor: --store: {layout.root}: {e}\n")
            return Exit.GAVE_UP

    jobs = [Job("serving", serve, Backoff(), vital=True)]
    if outputs is not None:
        jobs.append(_streaming(outputs, report))
    return Keeper(jobs, report.restarting).run()


def _streaming(outputs: streams.Streams, report: Report) -> Job:
    settings = outputs.settings
    listener = outputs.sockets.listener
    readers = addresses.text(listener) if listener is not None else None
    report.streams(readers, addresses.pair(*settings.vxlan) if settings.vxlan is not None else None)

    def stream() -> int:
        report.streaming(os.getpid())
        return outputs.run(report)

    return Job("streaming", stream, Backoff(), patience_s=STOP_S)


def _write(line: str) -> None:
    # Whoever was reading may have gone; storing goes on.
    with contextlib.suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _number(option: str, text: str, most: int, faults: list[str], unit: str = "") -> int:
    """What the text says; 0 with a fault added for anything but a number from 1 to `most`."""
    if text.isascii() and text.isdecimal() and 1 <= int(text) <= most:
        return int(text)
    faults.append(f"{option}: {text!r} is not a whole number{unit} from 1 to {most}")
    return 0


def _tokens(args: argparse.Namespace, keys: list[bytes], faults: list[str]) -> tuple[Token | None, Token | None]:
    """The operator's, and the one that may only look; each is a secret of its own."""
    operator = _token("--operator-token-file", args.operator_token_file, keys, faults)
    viewer = _token("--viewer-token-file", args.viewer_token_file, keys, faults)
    if args.viewer_token_file is not None and args.operator_token_file is None:
        faults.append("--viewer-token-file: it takes --operator-token-file, too")
    if operator is not None and viewer is not None and hmac.compare_digest(operator.secret, viewer.secret):
        faults.append("--viewer-token-file: this is the operator's token, it has to be another secret")
    return operator, viewer


def _token(option: str, path: str | None, keys: list[bytes], faults: list[str]) -> Token | None:
    if path is None:
        return None
    try:
        token = load_token(Path(path), option)
    except ConfigurationError as e:
        faults += e.faults
        return None
    if any(hmac.compare_digest(token.secret, key) for key in keys):
        # Every sensor has that one, and with it whoever took it from a sensor.
        faults.append(f"{option}: {path}: this is an HMAC key, the token has to be another secret")
        return None
    return token


def _keeping(args: argparse.Namespace, faults: list[str]) -> Keeping:
    """How the files are kept; meaningless when faults were added."""
    before = len(faults)
    # Up to a pebibyte, or two thousand years: beyond it SQLite's integers would be next.
    rotate_bytes = _number("--rotate-mb", args.rotate_mb, 1 << 30, faults, " of MiB") << 20
    rotate_s = _number("--rotate-minutes", args.rotate_minutes, 1 << 30, faults, " of minutes") * 60
    keep_ns = keep_bytes = None
    if args.keep_days is not None:
        keep_ns = _thousandths("--keep-days", args.keep_days, "days", 700_000, faults) * 24 * 3600 * 10**6
    if args.keep_gb is not None:
        keep_bytes = (_thousandths("--keep-gb", args.keep_gb, "GiB", 1 << 20, faults) << 30) // 1000
        if len(faults) == before and keep_bytes < rotate_bytes:
            faults.append(f"--keep-gb: {args.keep_gb} GiB is less than one file of --rotate-mb {args.rotate_mb}")
    return Keeping(rotate_bytes, rotate_s, retention.Limits(keep_ns, keep_bytes), args.compress_closed)


def _thousandths(option: str, text: str, unit: str, most: int, faults: list[str]) -> int:
    """What the text says, times a thousand; 0 with a fault added."""
    match = re.fullmatch(r"([0-9]{1,7})(?:\.([0-9]{1,3}))?", text)
    found = int(match[1] + (match[2] or "").ljust(3, "0")) if match else 0
    if 0 < found <= most * 1000:
        return found
    faults.append(f"{option}: {text!r} is not a number of {unit} from 0.001 to {most}")
    return 0


def _lock(layout: Layout, faults: list[str]) -> TextIO | None:
    """The store's folder, made if need be, and ours until the file is closed; None with a fault added otherwise.

    Two collectors on one index would each append at its own idea of a file's end. Children inherit the lock, so it
    lasts until the last of them is gone.
    """
    file: TextIO | None = None
    try:
        new = [folder for folder in (layout.root, *layout.root.parents) if not folder.exists()]
        layout.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        for folder in new or [layout.root]:
            # The newest last time, too: whoever made it may have died in front of this line. Folders above that may
            # not be read were not made by us.
            with contextlib.suppress(PermissionError):
                sync_folder(folder.parent)
        file = layout.lock.open("w", encoding="ascii")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if file is not None:
            file.close()
        why = "another vsensor uses it" if isinstance(e, BlockingIOError) else e.strerror
        faults.append(f"--store: {layout.root}: {why}")
        return None
    return file


def _certificate(args: argparse.Namespace, layout: Layout, host: str) -> certificate.Certificate:
    try:
        if args.tls_cert is not None:
            return certificate.load(Path(args.tls_cert), Path(args.tls_key))
        return certificate.ensure(layout.tls, host)
    except (OSError, ValueError) as e:
        # The name of what failed, not its text: OpenSSL quotes nothing of a key, but that is its decision.
        where = f"{args.tls_cert}, {args.tls_key}" if args.tls_cert is not None else str(layout.tls)
        raise ConfigurationError([f"certificate or key is unusable ({where}): {_reason(e)}"]) from e


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not accepted by OpenSSL"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "not a certificate in PEM"
