"""`ossensor ecs add-sidecar`: a task definition comes in, and goes out with the sensor in it."""

from __future__ import annotations

import argparse
import codecs
import json
import sys
from typing import Any

from ossensor.errors import ConfigurationError, Exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="ecs_command", required=True, metavar="COMMAND")
    add = commands.add_parser(
        "add-sidecar",
        help="add the sensor to a task definition",
        description="Reads a task definition on stdin (as the console's JSON view shows it, as the CLI's"
        " describe-task-definition prints it, as register-task-definition takes it, a CloudFormation template or"
        " resource, or a list of containers) and writes it to stdout with the sensor's container in it. What cannot"
        " work on Fargate is refused.",
        epilog='In a CloudFormation template, IMAGE, HOST and ARN may be computed: \'{"Ref": "SensorImage"}\'.',
    )
    add.add_argument("--image", required=True, help="the sensor's image")
    add.add_argument("--vsensor", required=True, metavar="HOST", help="the vSensor's host name")
    add.add_argument(
        "--key-secret", required=True, metavar="ARN", help="the secret, or SSM parameter, that holds the HMAC key"
    )
    add.add_argument("--name", default="ossensor", help="the container's name (default: ossensor)")
    add.add_argument("--memory", type=int, default=256, metavar="MIB", help="its hard limit (default: 256)")
    add.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable of the sensor; may be repeated"
    )
    add.add_argument("--log-group", default="", help="where its log goes (default: where another container's goes)")
    add.add_argument("--log-region", default="", help="that log group's region")
    add.add_argument(
        "--resource", action="append", default=[], metavar="NAME", help="which task definition of a template; repeat"
    )


def run(args: argparse.Namespace) -> int:
    """0 after writing the definition; 78 after naming everything that is wrong, with nothing written."""
    try:
        document, remarks = _add(sys.stdin.buffer.read(), args)
    except ConfigurationError as e:
        for fault in e.faults:
            sys.stderr.write(f"ossensor: {fault}\n")
        return Exit.CONFIGURATION
    for remark in remarks:
        sys.stderr.write(f"ossensor: note: {remark}\n")
    # Legible where it can be: another encoding's bytes would not be JSON (RFC 8259 section 8.1).
    in_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    json.dump(document, sys.stdout, indent=2, ensure_ascii=not in_utf8)
    sys.stdout.write("\n")
    return Exit.DRAINED


def _add(raw: bytes, args: argparse.Namespace) -> tuple[Any, list[str]]:
    from . import fargate, objections, sidecar  # noqa: PLC0415  pydantic is slow to import, and `--help` needs none of it
    from .document import read  # noqa: PLC0415  likewise

    faults: list[str] = []
    environment = _environment(args.env, faults)
    if bool(args.log_group) != bool(args.log_region):
        faults.append("--log-group and --log-region: give both or neither")
    wanted = sidecar.Sidecar(
        image=_maybe_computed(args.image),
        vsensor=_maybe_computed(args.vsensor),
        key_from=_maybe_computed(args.key_secret),
        name=args.name,
        memory_mib=args.memory,
        environment=environment,
        log_group=args.log_group,
        log_region=args.log_region,
    )
    faults += objections.of_arguments(wanted)
    try:
        document, tasks = read(_parsed(raw), args.resource)
    except ConfigurationError as e:
        raise ConfigurationError([*faults, *e.faults]) from None
    for task in tasks:
        faults += [*fargate.faults(task), *objections.of_task(task, wanted)]
    if faults:
        raise ConfigurationError(faults)
    for task in tasks:
        sidecar.put(task, wanted)
    return document, [remark for task in tasks for remark in objections.remarks(task, wanted)]


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as e:
        hint = "" if raw.lstrip()[:1] in (b"{", b"[") else "; a template in YAML has to be made JSON first"
        raise ConfigurationError([f"stdin is no JSON: {e}{hint}"]) from e


def _maybe_computed(text: str) -> Any:
    """The text, or what it says when it is an object for CloudFormation to compute."""
    from .document import computed  # noqa: PLC0415  see _add

    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if computed(value) else text


def _environment(pairs: list[str], faults: list[str]) -> dict[str, str]:
    environment = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            faults.append("--env: not NAME=VALUE")  # without the text, which may be the key
        elif name.startswith("VSENSOR_HMAC_KEY") and not name.endswith("_FILE"):
            faults.append(f"--env {name}: a key does not stand in a task definition, which many may read: --key-secret")
        else:
            environment[name] = value
    return environment
