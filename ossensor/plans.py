"""Which settings become which part's plan."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Final

from . import __version__
from .capture.engine import filter_snaplen
from .capture.filterbank import FilterBank
from .recipe import Recipe
from .settings import Settings
from .transport.introduction import Introduction
from .transport.signing import Key
from .workers.enforcer import Plan as EnforcerPlan
from .workers.lines import Plan as UploaderPlan
from .workers.route import Destination
from .workers.scheduler import AntigenaPlan

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
    antigena = None
    if settings.antigena_enabled:
        antigena = AntigenaPlan(settings.antigena_mode, settings.antigena_time_period_s)
    introduction = Introduction(
        _APPLICATION, platform.node(), task, antigena="off" if antigena is None else antigena.mode
    )
    return UploaderPlan(to, settings.compression, introduction, antigena, folder, settings.spool_mb << 20)


def enforcer_plan(settings: Settings) -> EnforcerPlan | None:
    """What the enforcer is forked for; None when nothing may be ordered."""
    if not settings.antigena_enabled:
        return None
    return EnforcerPlan(settings.antigena_mode, settings.antigena_protect)
