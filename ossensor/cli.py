"""The command line. Each command's module is imported when it is called: `ossensor check` needs no pypcap."""

from __future__ import annotations

import argparse
import os
import sys

from . import __version__


def _parser() -> argparse.ArgumentParser:
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
    audit = commands.add_parser("audit", help="hold a vSensor's store against the books of its sensors")
    audit.add_argument("store", metavar="DIR", help="the store's directory; the vSensor may be running")
    audit.add_argument("--json", action="store_true", help="for programs")
    audit.add_argument("--deep", action="store_true", help="read every stored section too; as slow as the disk")
    # Argparse alone: what the commands need is imported when they run.
    from .ecs.command import add_arguments as add_ecs_arguments  # noqa: PLC0415
    from .vsensor.command import add_arguments as add_vsensor_arguments  # noqa: PLC0415
    from .vsensor.extract import add_arguments as add_extract_arguments  # noqa: PLC0415

    add_ecs_arguments(commands.add_parser("ecs", help="put the sensor into Amazon ECS task definitions"))
    add_extract_arguments(commands.add_parser("extract", help="packets of a vSensor's store, as one pcapng file"))
    add_vsensor_arguments(commands.add_parser("vsensor", help="run the collector"))
    return parser


def main(argv: list[str] | None = None) -> int:
    """The exit code of the command: see errors.Exit; 2 for a command line that cannot be read."""
    arguments = _parser().parse_args(argv)
    match arguments.command:
        case "run":
            from .start import run  # noqa: PLC0415  see the module

            return run(os.environ)
        case "check":
            from .commands_look import check  # noqa: PLC0415  see the module

            return check(os.environ, as_json=arguments.json)
        case "interfaces":
            from .commands_look import interfaces  # noqa: PLC0415  see the module

            return interfaces(os.environ, as_json=arguments.json)
        case "audit":
            from .vsensor.audit import run as audit  # noqa: PLC0415  see the module

            return audit(arguments.store, as_json=arguments.json, deep=arguments.deep)
        case "ecs":
            from .ecs.command import run as run_ecs  # noqa: PLC0415  see the module

            return run_ecs(arguments)
        case "extract":
            from .vsensor.extract import run as extract  # noqa: PLC0415  see the module

            return extract(arguments)
        case _:
            from .vsensor.command import run as run_vsensor  # noqa: PLC0415  see the module

            return run_vsensor(arguments, os.environ)


if __name__ == "__main__":
    sys.exit(main())
