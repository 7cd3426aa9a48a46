"""A software bill of materials, CycloneDX 1.5 in JSON, of Debian packages and of a virtual environment's packages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

_OURS: Final = "ossensor"


def document(status_entries: Iterable[Path], venv: Path) -> str:
    """The document as text. It has no time and no serial number, so that the same parts give the same text."""
    components = [*_of_debian(status_entries), *_of_python(venv)]
    (ours,) = [c for c in components if c["name"] == _OURS]
    return json.dumps(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": {**ours, "type": "application"}},
            "components": [c for c in components if c is not ours],
        },
        indent=1,
    )


def _of_debian(status_entries: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for entry in status_entries:
        fields = dict(re.findall(r"^(Package|Version|Architecture): (.+)$", entry.read_text(), re.MULTILINE))
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={fields['Architecture']}&distro=debian-12"
        yield _component(name, version, purl)


def _of_python(venv: Path) -> Iterator[dict[str, Any]]:
    (packages,) = venv.glob("lib/python3.*/site-packages")
    for found in sorted(distributions(path=[str(packages)]), key=lambda d: d.name.lower()):
        name = re.sub(r"[-_.]+", "-", found.name).lower()
        yield _component(name, found.version, f"pkg:pypi/{name}@{quote(found.version, safe='')}")


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
