"""What the images install is pinned, hashed, and what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ASKED = {
    "requirements.txt": PROJECT["project"]["dependencies"],
    "requirements-vsensor.txt": [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["vsensor"],
    ],
    "requirements-build.txt": PROJECT["build-system"]["requires"],
}


def entries(name: str) -> dict[str, tuple[str, list[str]]]:
    """Package -> version and hashes. Fails on a line that pins nothing."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "deploy" / name).read_text())
    found = {}
    for line in filter(None, (line.partition("# ")[0].strip() for line in text.splitlines())):
        package, version, hashes = re.fullmatch(r"(\S+)==(\S+?)((?:\s*--hash=sha256:[0-9a-f]{64})+)", line).groups()  # type: ignore[union-attr]
        found[str(canonicalize_name(package))] = (version, hashes.split())
    return found


@pytest.mark.parametrize("name", ASKED)
def test_every_package_that_is_asked_for_is_pinned_to_a_version_that_is_allowed(name: str) -> None:
    locked = entries(name)
    wanted = [Requirement(text) for text in ASKED[name]]

    assert [str(r) for r in wanted if not r.specifier.contains(locked[canonicalize_name(r.name)][0])] == []


def test_both_images_have_the_same_version_of_what_both_have() -> None:
    sensor, vsensor = entries("requirements.txt"), entries("requirements-vsensor.txt")

    assert {name: vsensor.get(name) for name in sensor} == sensor


def test_the_lists_name_no_index() -> None:
    assert [
        n for n in ASKED if re.search(r"://|--(extra-)?index-url|--find-links", (ROOT / "deploy" / n).read_text())
    ] == []
