"""The command line. Each command's module is imported when it is called: `ossensor check` needs no pypcap."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from . import __version__

# Commands whose arguments are their own module's affair, and what they are for.
_ELSEWHERE: Final = {
    "ecs": "put the sensor into Amazon ECS task definitions",
    "extract": "packets of a vSensor's store, as one pcapng file",
    "antigena": "order connections ended, at a vSensor",
    "top": "show what a vSensor's sensors are doing, again each second",
    "vsensor": "run the collector",
    "consume": "store what vSensors published to NATS JetStream",
}


def make_parser(words: list[str] | None = None) -> argparse.ArgumentParser:
    """Of a command line that has these words; of any, if they are not given.

    Only the command that is called gets its arguments: to know the vSensor's is to import it, which would cost each
    health check 11 MiB and a fifth of a second, and the sensor memory that it keeps.
    """
    parser = argparse.ArgumentParser(
        prog="ossensor",
        description="Packet-forwarding network sensor, and the collector that it ships to.",
        epilog="The sensor is configured by environment variables; `ossensor check` shows them with their values.",
    )
    parser.add_argument("--version", action="version", version=f"ossensor {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("run", help="run the sensor")
    check = commands.add_parser("check", help="show the effective settings and where each comes from")
    interfaces = commands.add_parser("interfaces", help="show which interfaces would be captured, and why")
    for command in (check, interfaces):
        command.add_argument("--json", action="store_true", help="for programs")
    status = commands.add_parser("status", help="show how a running sensor is")
    status.add_argument("--watch", action="store_true", help="again each second, until Ctrl-C")
    status.add_argument("--json", action="store_true", help="for programs; one line each with --watch")
    health = commands.add_parser("health", help="for a health check: 0, or 1 where starting it again might help")
    for command in (status, health):
        command.add_argument("--socket", default="", metavar="ADDRESS", help="in place of OSSENSOR_STATUS_SOCKET")
    systemd = commands.add_parser("systemd", help="the sensor as a service of systemd")
    install = systemd.add_subparsers(dest="what", required=True, metavar="WHAT").add_parser(
        "install", help="write the unit; what is there of settings and key is left as it is"
    )
    install.add_argument("--from-ini", metavar="FILE", help="take settings and key from an INI file with [osSensor]")
    install.add_argument("--dry-run", action="store_true", help="only say what would be done")
    install.add_argument("--root", default="/", metavar="DIR", help="write below this folder, for an image")
    audit = commands.add_parser("audit", help="hold a vSensor's store against the books of its sensors")
    audit.add_argument("stores", metavar="DIR", nargs="+", help="stores, audited as one; the vSensors may be running")
    audit.add_argument("--json", action="store_true", help="for programs")
    audit.add_argument("--deep", action="store_true", help="read every stored section too; as slow as the disk")
    for name, purpose in _ELSEWHERE.items():
        command = commands.add_parser(name, help=purpose)
        if words is None or name in words:
            _add_arguments(name, command)
    return parser


def _add_arguments(name: str, parser: argparse.ArgumentParser) -> None:
    match name:
        case "ecs":
            from .ecs.command import add_arguments  # noqa: PLC0415  see make_parser()
        case "extract":
            from .vsensor.extract import add_arguments  # noqa: PLC0415  see make_parser()
        case "antigena":
            from .operator.command import add_arguments  # noqa: PLC0415  see make_parser()
        case "top":
            from .operator.top import add_arguments  # noqa: PLC0415  see make_parser()
        case "vsensor":
            from .vsensor.command import add_arguments  # noqa: PLC0415  see make_parser()
        case _:
            from .vsensor.jetstream.command import add_arguments  # noqa: PLC0415  see make_parser()
    add_arguments(parser)


def _run(_: argparse.Namespace) -> int:
    from .start import run  # noqa: PLC0415  see the module

    return run(os.environ)


def _check(arguments: argparse.Namespace) -> int:
    from .commands_look import check  # noqa: PLC0415  see the module

    return check(os.environ, as_json=arguments.json)


def _interfaces(arguments: argparse.Namespace) -> int:
    from .commands_look import interfaces  # noqa: PLC0415  see the module

    return interfaces(os.environ, as_json=arguments.json)


def _status(arguments: argparse.Namespace) -> int:
    from .status.command import status  # noqa: PLC0415  see the module

    return status(os.environ, watch=arguments.watch, as_json=arguments.json, address=arguments.socket)


def _health(arguments: argparse.Namespace) -> int:
    from .status.command import health  # noqa: PLC0415  see the module

    return health(os.environ, address=arguments.socket)


def _systemd(arguments: argparse.Namespace) -> int:
    from .systemd.install import install  # noqa: PLC0415  see the module

    ini = Path(arguments.from_ini) if arguments.from_ini else None
    return install(root=Path(arguments.root), ini=ini, dry_run=arguments.dry_run)


def _audit(arguments: argparse.Namespace) -> int:
    from .vsensor.audit import run  # noqa: PLC0415  see the module

    return run(arguments.stores, as_json=arguments.json, deep=arguments.deep)


def _ecs(arguments: argparse.Namespace) -> int:
    from .ecs.command import run  # noqa: PLC0415  see the module

    return run(arguments)


def _extract(arguments: argparse.Namespace) -> int:
    from .vsensor.extract import run  # noqa: PLC0415  see the module

    return run(arguments)


def _antigena(arguments: argparse.Namespace) -> int:
    from .operator.command import run  # noqa: PLC0415  see the module

    return run(arguments)


def _top(arguments: argparse.Namespace) -> int:
    from .operator.top import run  # noqa: PLC0415  see the module

    return run(arguments)


def _vsensor(arguments: argparse.Namespace) -> int:
    from .vsensor.command import run  # noqa: PLC0415  see the module

    return run(arguments, os.environ)


def _consume(arguments: argparse.Namespace) -> int:
    from .vsensor.jetstream.command import run  # noqa: PLC0415  see the module

    return run(arguments)


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "run": _run,
    "check": _check,
    "interfaces": _interfaces,
    "status": _status,
    "health": _health,
    "systemd": _systemd,
    "audit": _audit,
    "ecs": _ecs,
    "extract": _extract,
    "antigena": _antigena,
    "top": _top,
    "vsensor": _vsensor,
    "consume": _consume,
}


# What goes on whoever reads. What the others have to say is read, or nobody wants it.
_SERVING: Final = frozenset({"run", "vsensor", "consume"})


def main(argv: list[str] | None = None) -> int:
    """The exit code of the command: see errors.Exit; 2 for a command line that cannot be read."""
    argv = sys.argv[1:] if argv is None else argv
    _open_standard_streams()
    arguments = make_parser(argv).parse_args(argv)
    command = _COMMANDS[arguments.command]
    if arguments.command in _SERVING:
        return command(arguments)
    # As a shell calls what SIGPIPE and SIGINT ended: whoever was reading, or waiting, has enough. A command that had
    # come to its end by then says how that was.
    code: int = 128 + signal.SIGPIPE
    try:
        code = command(arguments)
        if not sys.stdout.closed:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python would try to flush the rest at its end, and complain.
        with contextlib.suppress(OSError):
            sys.stdout.close()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


def _open_standard_streams() -> None:
    """Where one is not there (`>&-`), /dev/null is; and none fails of a letter that its encoding does not have.

    Else the next file or socket of ours has its number: the vSensor's lines went into a file of the store.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # has the lowest number that is free, which is this one
            os.set_inheritable(fd, True)
            setattr(sys, name, open(fd, "w" if fd else "r", encoding="utf-8", closefd=False))  # noqa: SIM115  stays
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
