"""What the images are made of, looked at from outside."""

from __future__ import annotations

import json
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from podman import ROOT, SENSOR, VSENSOR, Podman

MOST_BYTES = 120_000_000
IMAGES = [pytest.param(SENSOR, id="sensor"), pytest.param(VSENSOR, id="vsensor")]
# Whatever could run, fetch or make something that was not there.
TOOLS = {"sh", "bash", "dash", "busybox", "apt", "apt-get", "dpkg", "pip", "pip3", "gcc", "cc", "ld", "curl", "perl"}


@pytest.fixture
def image(request: pytest.FixtureRequest, podman: Podman, tmp_path: Path) -> Iterator[tarfile.TarFile]:
    """Its files, as an archive."""
    container = podman("create", request.param)
    podman("export", "--output", tmp_path / "image.tar", container)
    podman("rm", container)
    with tarfile.open(tmp_path / "image.tar") as files:
        yield files


def matches(pattern: str, names: list[str]) -> set[str]:
    return {found[1] for found in map(re.compile(pattern).fullmatch, names) if found}


@pytest.mark.parametrize("name", IMAGES)
def test_it_is_small(name: str, podman: Podman) -> None:
    size = podman.inspect(name)["Size"]
    print(f"{name}: {size / 1e6:.1f} MB")

    assert size <= MOST_BYTES


@pytest.mark.parametrize("image", IMAGES, indirect=True)
def test_it_has_no_shell_no_package_manager_no_compiler_and_nothing_setuid(image: tarfile.TarFile) -> None:
    members = image.getmembers()
    programs = {PurePosixPath(m.name).name for m in members if m.mode & stat.S_IXUSR and not m.isdir()}
    raised = [m.name for m in members if m.isfile() and m.mode & (stat.S_ISUID | stat.S_ISGID)]

    assert (programs & TOOLS, raised) == (set(), [])
    assert "python3.11" in programs  # the names are looked at in the right place


@pytest.mark.parametrize("name", IMAGES)
def test_its_labels_and_its_process_are_as_said_and_nothing_of_the_build_stays(name: str, podman: Podman) -> None:
    said = podman.inspect(name)
    config = said["Config"]
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in config["Labels"].items()}

    assert {k: labels[k] for k in ("version", "revision", "licenses")} == {
        "version": re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1],  # type: ignore[index]
        "revision": "under-test",
        "licenses": "Apache-2.0",
    }
    assert config["Entrypoint"] == ["/opt/ossensor/bin/ossensor"]
    assert config["User"] == ("0:0" if name == SENSOR else "65534:65534")
    assert [variable.partition("=")[0] for variable in config["Env"]] == ["PATH"]
    assert "PIP_CERT" not in json.dumps(said)


@pytest.mark.parametrize(
    "image,lock",
    [
        pytest.param(SENSOR, "requirements.txt", id="sensor"),
        pytest.param(VSENSOR, "requirements-vsensor.txt", id="vsensor"),
    ],
    indirect=["image"],
)
def test_the_bill_of_materials_names_what_is_there_in_the_version_that_is_pinned(
    image: tarfile.TarFile, lock: str
) -> None:
    file = image.extractfile("usr/share/ossensor/sbom.cdx.json")
    assert file is not None
    components = json.load(file)["components"]
    debian = {c["name"] for c in components if c["purl"].startswith("pkg:deb/")}
    python = {c["name"]: c["version"] for c in components if c["purl"].startswith("pkg:pypi/")}
    names = image.getnames()
    installed = matches(r".*/site-packages/([^/]+)-[^-/]+\.dist-info/METADATA", names)
    pinned = (ROOT / "deploy" / lock).read_text()

    assert debian == matches(r"var/lib/dpkg/status\.d/(.+)", names)
    assert python == dict(re.findall(r"^([a-z0-9-]+)==(\S+)", pinned, re.MULTILINE))
    assert {re.sub(r"[-_.]+", "-", name).lower() for name in installed} == {*python, "ossensor"}
    assert {"libc6", "libpcap0.8", "libssl3", "python3.11-minimal"} <= debian
