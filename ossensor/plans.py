"""Which settings become which part's plan."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Final

from . import __version__
from .capture.engine import filter_snaplen
from .capture.filterbank import FilterBank
from .port import Recipe
from .settings import Settings
from .transport.introduction import Introduction
from .transport.signing import Key
from .workers.lines import Plan as UploaderPlan
from .workers.route import Destination

_APPLICATION: Final = f"ossensor/{__version__}"


def recipe(settings: Settings) -> Recipe:
    """How every port captures."""
    return Recipe(
        engine=settings.engine,
        batch_ms=settings.batch_ms,
        snaplen=settings.snaplen,
        complete_checksums=settings.complete_checksums,
        application=f"{_APPLICATION} {platform.system()} {platform.release()}",
    )


def first_bank(settings: Settings) -> FilterBank:
    """The filters before the uploader has asked for addresses to be left out."""
    return FilterBank(
        settings.bpf,
        credential_endpoints=settings.capture_credential_endpoints,
        snaplen=lambda kind: filter_snaplen(settings.engine, kind, settings.snaplen),
    )


def uploader_plan(settings: Settings, task: Mapping[str, str]) -> UploaderPlan:
    """What the uploader is forked for; `task` is what is known of the ECS task."""
    to = Destination(
        host=settings.vsensor_hostname,
        port=settings.vsensor_port,
        keys=tuple(Key(secret) for secret in (settings.hmac_key, settings.hmac_key_next) if secret),
        pinned=settings.tls == "key",
        sensor=settings.sensor_name,
        application=_APPLICATION,
    )
    folder = "" if settings.spool_dir is None else str(settings.spool_dir)
    introduction = Introduction(_APPLICATION, platform.node(), task)
    return UploaderPlan(to, settings.compression, introduction, folder, settings.spool_mb << 20)
