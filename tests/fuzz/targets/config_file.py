"""The config file (configfile.py), and the settings that it makes (settings.py).

Declared: ConfigurationError, in faults of one line that do not show the key. Second oracle: what was read, written as
this program writes it, is read as the same; settings in a file are judged as the same settings in the environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ossensor import configfile, settings
from ossensor.configfile import Line
from ossensor.errors import ConfigurationError

from ._files import memory_file

# What of a key would be recognised in a text, and is not there for another reason.
_KEY_BYTES = 12


def seeds() -> Iterator[bytes]:
    yield b'VSENSOR_HOSTNAME=vsensor.test\nVSENSOR_HMAC_KEY="a key of some length"\n'
    yield b"# comment\nexport VSENSOR_HOSTNAME='10.0.0.1'\nVSENSOR_HMAC_KEY_FILE=/nowhere\nOSSENSOR_DEBUG=3 # more\n\n"
    yield b'VSENSOR_HOSTNAME="v"\nVSENSOR_HMAC_KEY="a\\nb\\"c\\\\d"\nBPF="tcp port 80"\nVSENSOR_PORT=8443\n'
    yield b"VSENSOR_HOSTNAME=v\nVSENSOR_HMAC_KEY=0123456789abcdef\nOSSENSOR_NETWORK_DEVICE=eth0 eth1\nBPF=ip"
    lines = [Line(row.name, row.default, row.name == "OSSENSOR_RING_MB", row.meaning) for row in settings.describe()]
    yield configfile.render(lines).encode()


def target(data: bytes) -> bool:
    with memory_file(data) as fd:
        path = Path(f"/proc/self/fd/{fd}")
        try:
            values = configfile.read(path)
        except ConfigurationError as e:
            assert all(fault.isprintable() for fault in e.faults)
            return False
        _held(values, path)
    if "\0" not in "".join(values.values()):
        written = configfile.render(Line(name, text, explicit=True, meaning="") for name, text in values.items())
        if all(name.isidentifier() for name in values):
            with memory_file(written.encode()) as again:
                assert configfile.read(Path(f"/proc/self/fd/{again}")) == values
    return True


def _held(values: Mapping[str, str], path: Path) -> None:
    in_file = judged({settings.CONFIG_PATH: str(path)})
    known = {name: text for name, text in values.items() if name != settings.CONFIG_PATH}
    in_environment = judged({**known, settings.CONFIG_PATH: "/dev/null/none"})
    assert in_file == in_environment
    for name in ("VSENSOR_HMAC_KEY", "VSENSOR_HMAC_KEY_NEXT"):
        key = values.get(name, "")
        others = [text for other, text in values.items() if other != name]
        if len(key) >= _KEY_BYTES and not any(key in text for text in (*others, *values)):
            assert not any(key in text for text in in_file)


def judged(environment: Mapping[str, str]) -> list[str]:
    """Faults, or the settings, in texts."""
    try:
        loaded = settings.load(environment, bpf_fault=lambda _: None, interface_names=lambda: ["eth0", "eth1"])
    except ConfigurationError as e:
        assert e.faults
        assert all(fault.isprintable() for fault in e.faults)
        return e.faults
    return [f"{name}={text}" for name, text in loaded.texts.items() if name != settings.CONFIG_PATH]
