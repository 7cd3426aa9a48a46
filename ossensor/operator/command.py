"""`ossensor antigena`: its arguments, what is wrong with them, and what the vSensor answered, in words or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, Final

from ossensor.antigena import words
from ossensor.antigena.actions import MAX_DURATION_S, ActionError, id_ok, parse_action
from ossensor.errors import ConfigurationError, Exit

from . import access
from .ends import read_end

_PATH: Final = "/v1/antigena/actions"
# What a member of an order is called on the command line.
_OPTIONS: Final = {
    "destination": "--dst",
    "target": "--sensor, --family, --all",
    "duration_s": "--duration",
    "expires_s": "--duration",
    **{name: f"--{name}" for name in ("protocol", "direction", "reason", "id")},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="order", required=True, metavar="ORDER")
    block = commands.add_parser("block", help="end connections between two ends, whichever of them sends")
    block.add_argument("--src", metavar="ADDR[/LEN][:PORT]", default="*", help="one end; *:PORT for any address")
    block.add_argument("--dst", metavar="ADDR[/LEN][:PORT]", default="*", help="the other; [ADDR]:PORT for IPv6")
    quarantine = commands.add_parser("quarantine", help="end all connections of a device, or those of one direction")
    quarantine.add_argument("--device", metavar="ADDR[/LEN]")
    quarantine.add_argument(
        "--direction", default="all", metavar="all|outgoing|incoming", help="outgoing: those that it opened"
    )
    for order in (block, quarantine):
        order.add_argument("--protocol", default="any", metavar="tcp|udp|any")
        order.add_argument("--duration", metavar="SECONDS", help=f"1 to {MAX_DURATION_S}, from now")
        order.add_argument(
            "--reason", default="", metavar="TEXT", help="for those who read the list and the audit trail"
        )
        order.add_argument("--id", metavar="ID", help="to clear and extend it by; drawn at random otherwise")
        order.add_argument("--sensor", metavar="NAME", help="for this sensor")
        order.add_argument("--family", metavar="NAME", help="for every sensor of this ECS task family")
        order.add_argument("--all", action="store_true", help="for every sensor")
    show = commands.add_parser("list", help="show the orders in force and what each sensor says of them")
    clear = commands.add_parser("clear", help="end an order before its time")
    extend = commands.add_parser("extend", help="let an order last longer")
    extend.add_argument("--duration", metavar="SECONDS", help="how much longer than it would")
    for command in (clear, extend):
        command.add_argument("id", metavar="ID")
    for command in (block, quarantine, show, clear, extend):
        access.add_arguments(command, whose="the vSensor's operator token")
        command.add_argument("--json", action="store_true", help="the vSensor's answer as one JSON object")


def run(args: argparse.Namespace) -> int:
    """0 when it is done; CONFIGURATION when it cannot be so, GAVE_UP when it may be later. Faults go to stderr."""
    from .client import Answer, Client, UnreachableError  # noqa: PLC0415  requests is slow to import, --help needs none

    faults: list[str] = []
    method, path, given = _request(args, faults)
    token = access.read_token(args, faults)
    if faults or token is None:
        return _failed(faults, Exit.CONFIGURATION)
    try:
        with closing(Client(args.url, token, access.ca_file(args))) as client, access.waiting(args.url):
            answer: Answer = client.ask(method, path, given)
    except ConfigurationError as e:
        return _failed(e.faults, Exit.CONFIGURATION)
    except UnreachableError as e:
        doubt = f"; if it got there, the order is {given['action']['id']}" if e.sent and args.order in _NEW else ""
        return _failed([f"{e}{doubt}"], Exit.GAVE_UP)
    if answer.status not in {200, 201}:
        return _failed(*access.refusal(answer.status, answer.body, answer.retry_after, _renamed(args.order)))
    try:
        lines = [json.dumps(answer.body)] if args.json else list(_shown(args.order, answer.body))
    except (ActionError, KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return _failed([f"{args.url}: the answer is not a vSensor's"], Exit.GAVE_UP)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return Exit.DRAINED


_NEW: Final = frozenset({"block", "quarantine"})


def _failed(faults: list[str], code: Exit) -> int:
    return access.failed("antigena", faults, code)


# -- what is asked ----------------------------------------------------------------------------------------------------


def _request(args: argparse.Namespace, faults: list[str]) -> tuple[str, str, Any]:
    """Method, path and body."""
    match args.order:
        case "list":
            return "GET", _PATH, None
        case "clear":
            return "DELETE", _path(args, faults), None
        case "extend":
            return "POST", f"{_path(args, faults)}/extend", {"duration_s": _duration(args, faults)}
    target, duration_s = _target(args, faults), _duration(args, faults)
    # Drawn here, so that an order whose answer was lost is known by its name.
    action = {"id": args.id or str(uuid.uuid4()), "kind": args.order, "protocol": args.protocol, "reason": args.reason}
    if args.order == "block":
        action |= {"source": _end("--src", args.src, faults), "destination": _end("--dst", args.dst, faults)}
    else:
        action |= {"source": _end("--device", args.device, faults, ports=False), "direction": args.direction}
    try:
        # By the vSensor's clock it begins when it arrives; what else could be wrong is seen at any time.
        parse_action({**action, "start_s": 0, "expires_s": duration_s})
    except ActionError as e:
        # An end that could not be read has its fault already; that it is missing from the order is none of its own.
        named = {fault.partition(":")[0] for fault in faults}
        found = map(_renamed(args.order), e.faults)
        faults += [fault for fault in found if named.isdisjoint(fault.partition(":")[0].split(", "))]
    return "POST", _PATH, {"target": target, "duration_s": duration_s, "action": action}


def _path(args: argparse.Namespace, faults: list[str]) -> str:
    if not id_ok(args.id):
        faults.append(f"ID: {args.id!r} is not an order's")
    return f"{_PATH}/{args.id}"


def _target(args: argparse.Namespace, faults: list[str]) -> dict[str, Any]:
    given = {"sensor": args.sensor, "family": args.family, "all": args.all or None}
    target = {kind: value for kind, value in given.items() if value is not None}
    if len(target) != 1:
        faults.append("--sensor, --family, --all: give one of them")
    return target


def _duration(args: argparse.Namespace, faults: list[str]) -> int:
    text = args.duration or ""
    if text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MAX_DURATION_S:
        return int(text)
    given = "not given, it takes" if args.duration is None else f"{args.duration!r} is not"
    faults.append(f"--duration: {given} a number of seconds from 1 to {MAX_DURATION_S}")
    return 1


def _end(option: str, text: str | None, faults: list[str], *, ports: bool = True) -> dict[str, Any] | None:
    if text is None:
        faults.append(f"{option}: not given")
        return None
    try:
        return read_end(text, ports=ports)
    except ValueError as e:
        faults.append(f"{option}: {e}")
        return None


def _renamed(order: str) -> Callable[[str], str]:
    """Makes of a fault in a member of an order one in the option that it was made from."""
    options = {**_OPTIONS, "source": "--src" if order == "block" else "--device"}

    def rename(fault: str) -> str:
        head, colon, rest = fault.partition(": ")
        names = [options.get(name.partition(".")[0], name) for name in head.split(", ")]
        return ", ".join(dict.fromkeys(names)) + colon + rest

    return rename


# -- what is shown ----------------------------------------------------------------------------------------------------


def _shown(order: str, body: Mapping[str, Any]) -> Iterator[str]:
    if order == "list":
        return _listed(body)
    verb = {"clear": "cleared", "extend": "extended"}.get(order, "ordered")
    return iter([f"{verb} {_line(body)}"])


def _line(given: Mapping[str, Any]) -> str:
    action = parse_action(given["action"])
    ((kind, name),) = given["target"].items()
    whom = "all sensors" if kind == "all" else f"{kind} {name}"
    reason = f" ({action.reason})" if action.reason else ""
    return f"{action.id}: {words.action(action)}, {whom}, until {words.time(action.expires_s)}{reason}"


def _listed(body: Mapping[str, Any]) -> Iterator[str]:
    orders, sensors = body["orders"], body["sensors"]
    if not orders:
        yield "no orders"
    for given in sorted(orders, key=lambda given: given["action"]["expires_s"]):
        later = "" if given["in_force"] else f", from {words.time(given['action']['start_s'])}"
        yield _line(given) + later
        for sensor, said in sorted(given["sensors"].items()):
            counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in said["counts"].items())
            refused = f"NOT IN FORCE: {said['refused']}" if said["refused"] else ""
            yield f"  {sensor}: {'; '.join(filter(None, (refused, counts))) or 'nothing yet'}"
    for sensor, said in sorted(sensors.items()):
        heard = f"{sensor}: {said['mode']}, heard {max(0, body['time_s'] - said['heard_s'])} s ago"
        behind = "" if said["current"] or said["mode"] == "off" else ", has not the latest orders"
        yield f"{heard}{behind}" + (f", TROUBLE: {said['trouble']}" if said["trouble"] else "")
