"""`ossensor vsensor`: its arguments, what is wrong with them, and the numbered way to a running collector."""

from __future__ import annotations

import argparse
import hmac
import os
import socket
import sqlite3
import ssl
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from ossensor.antigena.token import Token, load_token
from ossensor.backoff import Backoff
from ossensor.errors import ConfigurationError, Exit
from ossensor.transport.hostport import direct_flow, spelled
from ossensor.transport.protocol import MAX_FILTER_CHARACTERS, MAX_SECTION_BYTES, Limits, Welcome, packet_filter_ok
from ossensor.transport.signing import Key

from . import addresses, certificate, storage
from .jetstream import access
from .keeper import Job, Keeper
from .layout import Layout
from .outlet import Outlet
from .report import Report
from .retention import Keeping
from .streams import arguments as streams
from .streams.notices import Announcer
from .streams.process import STOP_S

# What SQLite says of a disk, and of a file that is none of its own; the other kinds of DatabaseError are of our making.
_DISK: Final = (sqlite3.OperationalError, sqlite3.DatabaseError)

# Far above what a sensor has on its way by itself.
_WINDOW_MAX = 64


class _Stream(NamedTuple):
    """Where batches go instead of into files."""

    access: access.Access
    replicas: int


class _Service(NamedTuple):
    """What is served, and to whom."""

    keys: Mapping[str, Key]
    tokens: tuple[Token | None, Token | None]  # the operator's, and the one that may only look
    welcome: Welcome
    keeping: Keeping
    stream: _Stream | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="address to listen on; [::]:8443 for IPv6")
    parser.add_argument(
        "--store", required=True, metavar="DIR", help="where pcapng files, index and certificate are kept"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain in PEM, instead of a self-signed one")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key, unencrypted")
    storage.add_arguments(parser)
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
    scale_out = parser.add_argument_group(
        "scale-out",
        "publish batches to NATS JetStream and keep none here; `ossensor consume` stores them; see docs/scale-out.md",
    )
    scale_out.add_argument("--jetstream", metavar="URL[,URL]", help="NATS servers: nats://HOST:PORT or tls://HOST:PORT")
    scale_out.add_argument(
        "--jetstream-replicas",
        default="3",
        metavar="N",
        help="copies that a stream which we make has: 1 to 5; 3 survive the loss of one server (default: 3)",
    )
    access.add_arguments(parser)


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
    keeping = storage.keeping(args, faults)
    batch_mb = storage.number("--largest-batch-mb", args.largest_batch_mb, MAX_SECTION_BYTES >> 20, faults, " of MiB")
    window = storage.number("--largest-window", args.largest_window, _WINDOW_MAX, faults)
    if (args.tls_cert is None) != (args.tls_key is None):
        faults.append("--tls-cert and --tls-key: give both, or neither for a self-signed certificate")
    if not packet_filter_ok(args.packet_filter):
        faults.append(f"--packet-filter: not printable ASCII, or longer than {MAX_FILTER_CHARACTERS} characters")
    elif args.packet_filter and (fault := bpf_fault(args.packet_filter)):
        faults.append(f"--packet-filter: {args.packet_filter!r}: {fault}")
    make_streams = streams.check(args, faults)
    stream = _scale_out(args, faults)
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
    with storage.locked(layout, faults):
        service = _Service({key.id: key for key in map(Key, keys)}, tokens, welcome, keeping, stream)
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
        outlet = Outlet(as_json=args.json)
        report = Report(outlet.write, layout.root, as_json=args.json, own=outlet.begun)
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
        try:
            # Anew: the files may have been renewed since the start, and what is shown must be what the proof names.
            shown = certificate.load(pair.certificate, pair.key)
        except (OSError, ValueError) as e:
            # Half renewed, perhaps: the keeper tries again.
            sys.stderr.write(f"vsensor: {_unusable(f'{pair.certificate}, {pair.key}', e)}\n")
            return Exit.GAVE_UP
        announcer = Announcer(outputs.serving, outputs.books) if outputs is not None else None
        try:
            if service.stream is not None:
                # It needs nats-py, which only --jetstream asks for.
                from .jetstream.serving import Publishing  # noqa: PLC0415

                publishing = Publishing(service.keys, layout.root, shown, service.welcome, *service.stream)
                return publishing.run(listener, report)
            settings = Settings(
                *(service.keys, layout.root, shown, not args.no_fsync, service.keeping),
                welcome=service.welcome,
                operator_token=service.tokens[0],
                viewer_token=service.tokens[1],
            )
            return run(settings, listener, report, announcer)
        except ConfigurationError as e:
            return _refuse(e)
        except (OSError, sqlite3.DatabaseError) as e:
            if isinstance(e, sqlite3.DatabaseError) and type(e) not in _DISK:
                raise
            # The disk is full, or broken, or somebody puts another file there: the keeper tries, ever more rarely.
            sys.stderr.write(f"vsensor: --store: {layout.root}: {e}\n")
            return Exit.GAVE_UP

    def serve_and_tell() -> int:
        with report.own():
            return serve()

    jobs = [Job("serving", serve_and_tell, Backoff(), vital=True)]
    if outputs is not None:
        jobs.append(_streaming(outputs, report))
    return Keeper(jobs, report.restarting).run()


def _streaming(outputs: streams.Streams, report: Report) -> Job:
    settings = outputs.settings
    listener = outputs.sockets.listener
    readers = addresses.text(listener) if listener is not None else None
    report.streams(readers, addresses.pair(*settings.vxlan) if settings.vxlan is not None else None)

    def stream() -> int:
        with report.own():
            report.streaming(os.getpid())
            return outputs.run(report)

    return Job("streaming", stream, Backoff(), patience_s=STOP_S)


def _scale_out(args: argparse.Namespace, faults: list[str]) -> _Stream | None:
    if args.jetstream is None:
        faults += [f"{o}: there is no --jetstream" for o in access.given(args)]
        return None
    reached = access.parse("--jetstream", args.jetstream, args, faults)
    replicas = storage.number("--jetstream-replicas", args.jetstream_replicas, 5, faults)
    elsewhere = {
        "--keep-days": args.keep_days,
        "--keep-gb": args.keep_gb,
        "--compress-closed": args.compress_closed,
        "--no-fsync": args.no_fsync,
    }
    faults += [
        f"{o}: with --jetstream no batch is kept here; `ossensor consume` has it" for o, v in elsewhere.items() if v
    ]
    of_files = {"--pcap-over-ip": args.pcap_over_ip, "--vxlan": args.vxlan}
    faults += [f"{o}: with --jetstream there are no files here to stream from" for o, v in of_files.items() if v]
    if args.operator_token_file:
        # Each vSensor has a book of its own, and a sensor would be told one by the one and another by the next.
        faults.append("--operator-token-file: with --jetstream nothing can be ordered")
    return _Stream(reached, replicas)


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


def _certificate(args: argparse.Namespace, layout: Layout, host: str) -> certificate.Certificate:
    try:
        if args.tls_cert is not None:
            return certificate.load(Path(args.tls_cert), Path(args.tls_key))
        return certificate.ensure(layout.tls, host)
    except (OSError, ValueError) as e:
        where = f"{args.tls_cert}, {args.tls_key}" if args.tls_cert is not None else str(layout.tls)
        raise ConfigurationError([_unusable(where, e)]) from e


def _unusable(where: str, error: OSError | ValueError) -> str:
    # The name of what failed, not its text: OpenSSL quotes nothing of a key, but that is its decision.
    return f"certificate or key is unusable ({where}): {_reason(error)}"


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not accepted by OpenSSL"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "not a certificate in PEM"
