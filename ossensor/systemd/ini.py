"""An INI file with `[osSensor]`, as earlier sensors of this kind had it, as settings of ours. Pure.

Invariant: the key is in `Migrated.key` and in no text that is printed.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ossensor.errors import ConfigurationError
from ossensor.settings import Loaded
from ossensor.variables import BPF, CONFIG_PATH, DEVICE, EXCLUDE, HOSTNAME, KEY

_SECTION: Final = "ossensor"
# configparser makes option names small.
_OPTIONS: Final = {
    "debug": "OSSENSOR_DEBUG",
    "vsensor": HOSTNAME,
    "key": KEY,
    "device": DEVICE,
    "useantigena": "ANTIGENA_ENABLED",
    "sendantigenaactiondelta": "ANTIGENA_TIME_PERIOD",
    "blacklist_device": EXCLUDE,
    "bpf": BPF,
}
_PORT: Final = "VSENSOR_PORT"
# No file, whatever the machine has: what the INI file says is judged by itself.
_NO_FILE: Final = "/dev/null/none"


@dataclass(frozen=True)
class Migrated:
    """Settings by variable, the key apart; `remarks` say what was read otherwise than it stands."""

    settings: Mapping[str, str]
    key: str = field(repr=False)
    remarks: list[str]


def migrated(text: str, load: Callable[[Mapping[str, str]], Loaded]) -> Migrated:
    """What the INI file's text says. ConfigurationError with all faults, each with the option and the variable.

    Unknown options are left out, with a remark: no sensor should fail to come back for an option that nobody reads.
    """
    options, remarks = _options(text)
    settings = {_OPTIONS[name]: value for name, value in options.items() if name in _OPTIONS and value}
    unknown = sorted(set(options) - set(_OPTIONS))
    remarks += [f"{name!r} is no option that is known here, and is left out" for name in unknown]
    remarks += [f"{name!r} goes on in a line that is indented" for name, value in options.items() if "\n" in value]
    host, colon, port = settings.get(HOSTNAME, "").rpartition(":")
    if colon and port.isdigit() and (":" not in host or (host[0], host[-1]) == ("[", "]")):
        settings |= {HOSTNAME: host, _PORT: port}
        remarks.append(f"the port in 'vSensor' becomes {_PORT}")
    for name in (DEVICE, EXCLUDE):
        if "," in settings.get(name, "") and "{" not in settings[name]:
            settings[name] = " ".join(settings[name].replace(",", " ").split())
            remarks.append(f"the commas in {name} become spaces")
    if settings.get(DEVICE) == "any":
        del settings[DEVICE]
        remarks.append("'device = any' means every interface but loopback here, which is what nothing means, too")
    try:
        loaded = load({**settings, CONFIG_PATH: _NO_FILE})
    except ConfigurationError as e:
        raise ConfigurationError([_with_option(fault) for fault in e.faults]) from None
    return Migrated({n: t for n, t in settings.items() if n != KEY}, settings[KEY], [*remarks, *loaded.warnings])


def _options(text: str) -> tuple[dict[str, str], list[str]]:
    # No interpolation: a key may hold a percent sign. Not the parser's own messages: they quote the line, which may be
    # the key's.
    parser = configparser.ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=None)
    try:
        parser.read_string(text)
        wrong = ""
    except configparser.MissingSectionHeaderError:
        wrong = "no section stands before the first option"
    except configparser.ParsingError as e:
        wrong = f"not `name = value` in line {', '.join(str(number) for number, _ in e.errors)}"
    if wrong:
        raise ConfigurationError([f"the INI file: {wrong}"])
    sections = [name for name in parser.sections() if name.lower() == _SECTION]
    if len(sections) != 1:
        raise ConfigurationError(["the INI file: it has no section [osSensor], or several"])
    others = [f"the section {name!r} is left out" for name in parser.sections() if name not in sections]
    return {name: value.strip() for name, value in parser.items(sections[0])}, others


def _with_option(fault: str) -> str:
    names = {variable: option for option, variable in _OPTIONS.items()}
    option = names.get(fault.partition(":")[0])
    return f"{fault} (from the option {option!r})" if option else fault
