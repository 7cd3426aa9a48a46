"""Podman with a storage of its own, and the images under test.

Nothing is fetched from a container registry: the base is made of Debian's packages, from the mirror that this machine's
apt uses. The storage is kept in .run/containers, so that only what changed is built again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
STORAGE: Final = ROOT / ".run/containers"
BASE: Final = "localhost/ossensor-test-base"
SENSOR: Final = "localhost/ossensor-test"
VSENSOR: Final = "localhost/ossensor-test-vsensor"

# crun refuses hybrid cgroups, and a machine without CAP_SYS_RESOURCE cannot raise limits to podman's defaults.
_ENGINE: Final = """\
[containers]
default_ulimits=["nofile=20000:20000","nproc=20000:20000"]
[engine]
runtime="runc"
cgroup_manager="cgroupfs"
events_logger="file"
[network]
network_backend="netavark"
"""


class UnavailableError(Exception):
    """Containers cannot be tested here, for the reason that it carries."""


class Podman:
    """The program, called with this storage."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise UnavailableError("containers are tested as root")
        if missing := [name for name in ("podman", "buildah", "debootstrap", "runc") if shutil.which(name) is None]:
            raise UnavailableError(f"not installed: {', '.join(missing)}; `make containers` installs them")
        STORAGE.mkdir(parents=True, exist_ok=True)
        engine, storage = STORAGE / "containers.conf", STORAGE / "storage.conf"
        engine.write_text(_ENGINE)
        storage.write_text(f'[storage]\ndriver="overlay"\ngraphroot="{STORAGE}/images"\nrunroot="{STORAGE}/run"\n')
        self._env = {**os.environ, "CONTAINERS_CONF": str(engine), "CONTAINERS_STORAGE_CONF": str(storage)}

    def __call__(self, *argv: str | Path, program: str = "podman", timeout_s: float = 600) -> str:
        """What it printed. Fails with what it said unless it ends with 0."""
        command = ["nice", "-n", "5", program, *map(str, argv)]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == 0, (
            f"{program} {argv} ended with {done.returncode}: {done.stdout[-4000:]}{done.stderr}"
        )
        return done.stdout.strip()

    def inspect(self, name: str) -> dict[str, Any]:
        (found,) = json.loads(self("inspect", name))
        return dict(found)

    def says(self, name: str) -> str:
        """What a container has written so far, both streams."""
        done = subprocess.run(
            ["podman", "logs", name], env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
        )
        return done.stdout.decode()

    def stop(self, name: str, *, at_most_s: int) -> tuple[int, float]:
        """(exit code, seconds that stopping took): SIGTERM, and SIGKILL after the limit, which then is the code 137."""
        begun = time.monotonic()
        self("stop", "--time", str(at_most_s), name)
        took_s = time.monotonic() - begun
        return self.inspect(name)["State"]["ExitCode"], took_s

    def make_base(self) -> None:
        if self._has(BASE):
            return
        sites = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Codename: bookworm"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.splitlines()
        if not sites:
            raise UnavailableError("this machine's apt knows no mirror of Debian 12")
        with tempfile.TemporaryDirectory(prefix="ossensor-base-", dir=STORAGE) as folder:
            command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", folder, sites[0]]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            subprocess.run(["umount", f"{folder}/proc"], capture_output=True, check=False)  # it stays when that failed
            if made.returncode != 0:
                raise UnavailableError(f"no base image: debootstrap: {made.stdout.strip().splitlines()[-1:]}")
            container = self("from", "scratch", program="buildah")
            self("add", "-q", container, folder, "/", program="buildah")
            self("commit", "-q", "--rm", container, BASE, program="buildah")

    def build(self, target: str, name: str) -> None:
        options = ["--isolation", "chroot", "--network", "host", "--target", target, "--build-arg", f"BASE={BASE}"]
        if bundle := os.environ.get("PIP_CERT"):  # behind a proxy; the same path inside as here
            options += ["--build-arg", f"PIP_CERT={bundle}", "--volume", f"{bundle}:{bundle}:ro"]
        self("build", *options, "--build-arg", "REVISION=under-test", "--tag", name, ROOT)

    def _has(self, image: str) -> bool:
        return subprocess.run(["podman", "image", "exists", image], env=self._env, check=False).returncode == 0
