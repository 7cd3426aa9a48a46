"""A task as Fargate runs one: an application and the sensor, each in its container, in one network of two links.

Both links are those of a Fargate task: eth0 leads to the agent, which hands out metadata and credentials
(169.254.170.2, by 169.254.172.0/22), and eth1 is the task's own, with the default route. The vSensor is a container
too, in a network of its own beyond eth1, so that the sensor's upload crosses what it captures.

The sensor's container is run as deploy/ecs/task-definition.json says, which `ossensor ecs add-sidecar` made.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from harness.captures import Packet, read_pcapng
from harness.cgroup import Memory
from harness.namespaces import Namespace, address, wire
from harness.proc import eventually
from podman import ROOT, SENSOR, VSENSOR, Podman

HERE: Final = Path(__file__).parent
DEFINITION: Final = json.loads((ROOT / "deploy/ecs/task-definition.json").read_text())
(SIDECAR,) = (c for c in DEFINITION["containerDefinitions"] if c["name"] == "ossensor")
# moby, oci/caps/defaults.go: what a container has on Fargate unless its definition drops it.
_DEFAULT_CAPABILITIES: Final = {
    *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
}
CAPABILITIES: Final = sorted(_DEFAULT_CAPABILITIES - {*SIDECAR["linuxParameters"]["capabilities"]["drop"]})

TASK: Final = "10.77.1.10"
OUTSIDE: Final = "10.77.1.1"
AGENT: Final = "169.254.170.2"
TASK_ID: Final = "0123456789abcdef0123456789abcdef"
CREDENTIAL: Final = "wJalrXUtnFEMI-the-roles-secret-key"
_PORT: Final = 8443
_TOKEN: Final = "/run/operator-token"  # in the vSensor's container


class Task:
    """The three networks with everything in them but the sensor, from `__enter__` to `__exit__`."""

    def __init__(self, podman: Podman) -> None:
        self.podman = podman
        self.key = secrets.token_hex(32)
        self._run = secrets.token_hex(4)
        self._stack = ExitStack()
        self._volume = f"store-{self._run}"
        self.application = f"application-{self._run}"
        self.sensor = f"ossensor-{self._run}"
        self._vsensor = f"vsensor-{self._run}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.inside, self.agent, self.outside = (stack.enter_context(Namespace()) for _ in range(3))
            self._wire()
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ossensor-task-"))
            self._token = Path(folder, "token")
            self._peer_log = Path(folder, "peer.log")
            for namespace, program in ((self.agent, "agent.py"), (self.outside, "peer.py")):
                where = AGENT if program == "agent.py" else OUTSIDE
                argv = namespace.inside(sys.executable, HERE / program, where, TASK_ID, CREDENTIAL)
                with Path(folder, program).with_suffix(".log").open("w") as log:
                    process = stack.enter_context(subprocess.Popen(argv, stdout=log))
                stack.callback(process.kill)
            eventually("the agent listens", lambda: self.agent.listens(80))
            eventually("the peer listens", lambda: self.outside.listens(7000))
            stack.callback(self._remove)
            self._start_vsensor()
            self._start_application()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _wire(self) -> None:
        wire(self.agent, "agent0", self.inside, "eth0")
        address(self.agent, "agent0", "169.254.172.1/22", f"{AGENT}/32")
        address(self.inside, "eth0", "169.254.172.2/22")
        self.inside.run("ip", "route", "add", f"{AGENT}/32", "via", "169.254.172.1", "dev", "eth0")
        wire(self.outside, "outside0", self.inside, "eth1")
        address(self.outside, "outside0", f"{OUTSIDE}/24")
        address(self.inside, "eth1", f"{TASK}/24")
        self.inside.run("ip", "route", "add", "default", "via", OUTSIDE, "dev", "eth1")

    def _remove(self) -> None:
        self.podman("rm", "--force", "--time", "0", "--ignore", self.application, self.sensor, self._vsensor)
        self.podman("volume", "rm", "--force", self._volume)

    def _start(self, name: str, namespace: Namespace, *options: str | Path) -> None:
        network = f"ns:/proc/{namespace.pid}/ns/net"
        self.podman("run", "--detach", "--name", name, "--network", network, "--log-driver", "k8s-file", *options)

    def _start_vsensor(self) -> None:
        confined = (
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop",
            "all",
            "--security-opt",
            "no-new-privileges",
        )
        key = ("--env", f"VSENSOR_HMAC_KEY={self.key}")
        self._token.touch(0o600)
        self._token.write_text(secrets.token_urlsafe(32))
        os.chown(self._token, 65534, 65534)  # the image's user
        volumes = (f"{self._volume}:/var/lib/ossensor", f"{self._token}:{_TOKEN}:ro")
        mounts = (part for volume in volumes for part in ("--volume", volume))
        command = (*self.podman.inspect(VSENSOR)["Config"]["Cmd"], "--operator-token-file", _TOKEN)
        self._start(self._vsensor, self.outside, *confined, *key, *mounts, VSENSOR, *command)
        eventually("the vSensor listens", lambda: self.outside.listens(_PORT))

    def _start_application(self) -> None:
        # Any image with a Python will do for an application; the vSensor's has one.
        python = ("--entrypoint", "/opt/ossensor/bin/python", "--env", "PYTHONUNBUFFERED=1", "--user", "0:0")
        program = ("--volume", f"{HERE}/application.py:/application.py:ro", VSENSOR, "/application.py", OUTSIDE, AGENT)
        self._start(self.application, self.inside, *python, *program)
        eventually("the application is at work", lambda: self.turns() > 0)

    def start_sensor(self, **environment: str) -> None:
        """The sidecar of the task definition, with what differs from its text: names, key and image."""
        variables = {item["name"]: item["value"] for item in SIDECAR["environment"]} | {
            "VSENSOR_HOSTNAME": OUTSIDE,
            "VSENSOR_PORT": str(_PORT),
            "VSENSOR_HMAC_KEY": self.key,
            "ECS_CONTAINER_METADATA_URI_V4": f"http://{AGENT}/v4/container",
            **environment,
        }
        options = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
        options += ["--cap-drop", "all", *(part for name in CAPABILITIES for part in ("--cap-add", name))]
        if SIDECAR["readonlyRootFilesystem"]:
            options += ["--read-only", "--read-only-tmpfs=false"]
        options += ["--memory", f"{SIDECAR['memory']}m", "--security-opt", "no-new-privileges", SENSOR]
        self._start(self.sensor, self.inside, *options)

    def stop_vsensor(self) -> None:
        self.podman("stop", "--time", "10", self._vsensor)

    def wait_for(self, part: str) -> None:
        eventually(f"{part!r} in the sensor's log", lambda: part in self.podman.says(self.sensor))

    def memory(self) -> Memory:
        """The account of the sensor's container."""
        return Memory.of(self.podman.inspect(self.sensor)["State"]["Pid"])

    def order(self, *what: str) -> dict[str, Any]:
        """What `ossensor antigena` answered to an operator beside the vSensor."""
        whom = ("--url", f"https://localhost:{_PORT}", "--ca-file", "/var/lib/ossensor/tls/cert.pem")
        said = self.podman(
            "exec", self._vsensor, "ossensor", "antigena", *what, *whom, "--token-file", _TOKEN, "--json"
        )
        return dict(json.loads(said))

    # -- what happens in it ------------------------------------------------------------------------------------------

    def ask_application(self, *what: str) -> str:
        """Has a second process of the application's container do something, and returns what it printed."""
        python = "/opt/ossensor/bin/python"
        return self.podman("exec", self.application, python, "/application.py", OUTSIDE, AGENT, *what)

    def peer_saw(self) -> list[str]:
        """The port of each of the application's connections as it began, and with an error's name as it was reset."""
        return self._peer_log.read_text().splitlines()

    def turns(self) -> int:
        """How many requests the application has had answered, over one connection; it ends at the first fault."""
        lines = self.podman.says(self.application).split()
        return int(lines[-1]) if lines and lines[-1].isdecimal() else 0

    def application_state(self) -> dict[str, Any]:
        state = self.podman.inspect(self.application)["State"]
        return {name: state[name] for name in ("Status", "Pid", "ExitCode")}

    # -- what came of it ---------------------------------------------------------------------------------------------

    @property
    def store(self) -> Path:
        return Path(json.loads(self.podman("volume", "inspect", self._volume))[0]["Mountpoint"])

    def stored(self) -> list[Packet]:
        return [packet for file in sorted(self.store.rglob("*.pcapng")) for packet in read_pcapng(file)]
