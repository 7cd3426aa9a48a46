"""Somebody who follows a page of the documents: types each of its commands, in its order, in one folder."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from documented import to_run
from harness import proc
from harness.namespaces import Namespace
from harness.programs import OSSENSOR, Program, environment
from harness.world import PORT, World

_ASSIGNMENT = re.compile(r'[A-Z_]+=("[^"]*"|\S*)')
_GOES_ON = re.compile(r"(?:[A-Z_]+=\S+ )*\S*ossensor (vsensor|run)\b")
_HOSTS = "127.0.0.1 localhost\n10.9.0.2 vsensor.example\n"


class Reader:
    """`at`: the machine where it is typed. A vSensor is typed at the collector, wherever the page is read.

    `instead`: what the test does where the machine of a test has no such thing, by the command.
    """

    def __init__(self, world: World, folder: Path, at: Namespace, variables: Mapping[str, str]) -> None:
        self.world = world
        self.folder = folder
        self.at = at
        self.said: dict[str, str] = {}
        self.instead: dict[str, Callable[[], object]] = {}
        self.started: Callable[[], object] = lambda: None  # after a vSensor is there
        self.going: dict[str, Program] = {}
        self.environment = environment({**variables, "PATH": f"{OSSENSOR.parent}:{os.environ['PATH']}"})
        (folder / ".venv").symlink_to(sys.prefix)
        for number, machine in enumerate((world.sensor, world.collector)):
            _own_etc(machine, folder / f"etc{number}")

    def follow(self, page: str) -> None:
        """Runs what the page says. Fails at a command that ends with anything but 0."""
        assigned = ""
        for command in to_run(page):
            print(f"$ {command}")
            if _ASSIGNMENT.fullmatch(command):
                assigned = f"{assigned}{command}; "
            elif command in self.instead:
                self.instead[command]()
            elif found := _GOES_ON.match(command):
                self._start(found[1], command)
            else:
                script = f"cd {self.folder}; {assigned}{command}"
                self.said[command] = self.at.run("sh", "-ec", script, env=self.environment)

    def _start(self, kind: str, command: str) -> None:
        """Until the page starts the next of its kind, or ends."""
        if before := self.going.pop(kind, None):
            assert before.terminate()[0] == 0
        where = self.world.collector if kind == "vsensor" else self.at
        program = self.world.start(where, "sh", "-c", f"cd {self.folder} && exec env {command}", env=self.environment)
        self.going[kind] = program
        if kind == "vsensor":
            proc.eventually("it listens", lambda: where.listens(PORT) or not program.running(), timeout_s=60)
            assert program.running(), program.tail()
            self.started()
        else:
            program.wait_for_line("capturing interface=cap0")


def _own_etc(machine: Namespace, folder: Path) -> None:
    """An /etc of the machine's own, with a name for the vSensor: what a page writes there must not stay."""
    folder.mkdir()
    machine.run("mount", "-t", "tmpfs", "none", folder)
    machine.run("mkdir", folder / "upper", folder / "work")
    layers = f"lowerdir=/etc,upperdir={folder}/upper,workdir={folder}/work"
    machine.run("mount", "-t", "overlay", "none", "-o", layers, "/etc")
    machine.run("sh", "-c", f"rm -f /etc/hosts && printf '{_HOSTS}' > /etc/hosts")
