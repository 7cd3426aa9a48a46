"""An INI file with [osSensor], as earlier sensors of this kind had it (systemd/ini.py).

Declared: ConfigurationError, in faults that do not show the key. Second oracle: the settings that were made of it,
written as a config file and read again, are settings; and the key is in nothing that is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ossensor import configfile, settings
from ossensor.configfile import Line
from ossensor.errors import ConfigurationError
from ossensor.settings import Loaded
from ossensor.systemd.ini import migrated

from ._files import memory_file
from .config_file import judged

_KEY = "Key-Of-25-Characters-Long"


def seeds() -> Iterator[bytes]:
    yield f"[osSensor]\nvSensor = vsensor.test:8443\nkey = {_KEY}\n".encode()
    yield f"; old\n[DEFAULT]\ndebug=1\n[ossensor]\nvsensor: [2001:db8::1]\nkey: {_KEY}\ndevice = eth0,eth1\n".encode()
    yield (
        f"[Other]\nx=y\n[OSSENSOR]\nvSensor=10.0.0.1\nkey={_KEY}\nuseAntigena=true\nsendAntigenaActionDelta=5\n"
        "blacklist_device=eth9, veth.*\nbpf=not port 22\nunknown=1\ndevice=any\n"
    ).encode()


def _load(environment: Mapping[str, str]) -> Loaded:
    return settings.load(environment, bpf_fault=lambda _: None, interface_names=lambda: ["eth0", "eth1"])


def target(data: bytes) -> bool:
    text = data.decode("utf-8", "surrogateescape")
    # In the one place where a key belongs; elsewhere it was given under another name, which is shown.
    hidden = text.count(_KEY) == 1 and f"\nkey = {_KEY}\n" in text
    try:
        old = migrated(text, _load)
    except ConfigurationError as e:
        assert all(fault.isprintable() for fault in e.faults)
        assert not (hidden and any(_KEY in fault for fault in e.faults))
        return False
    assert not (hidden and any(_KEY in said for said in (*old.remarks, *old.settings.values(), repr(old))))
    lines = [Line(name, value, explicit=True, meaning="") for name, value in old.settings.items()]
    lines.append(Line(settings.KEY, old.key, explicit=True, meaning=""))
    with memory_file(configfile.render(lines).encode()) as fd:
        in_file = judged({settings.CONFIG_PATH: f"/proc/self/fd/{fd}"})
    assert in_file == judged({**old.settings, settings.KEY: old.key, settings.CONFIG_PATH: "/dev/null/none"})
    return True
