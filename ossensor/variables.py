"""The one table of variables: names, defaults, what is allowed and what they mean.

The README's table, `ossensor check`, the generated config file and the faults are all made from `Form`. A value is
made from the text as it was given (values.py); "" is what stands for "not given", in a default as in a task definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, cast

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from . import values
from .transport.compression import Policy

HOSTNAME: Final = "VSENSOR_HOSTNAME"
KEY: Final = "VSENSOR_HMAC_KEY"
KEY_FILE: Final = "VSENSOR_HMAC_KEY_FILE"
KEY_NEXT: Final = "VSENSOR_HMAC_KEY_NEXT"
KEY_NEXT_FILE: Final = "VSENSOR_HMAC_KEY_NEXT_FILE"
DEVICE: Final = "OSSENSOR_NETWORK_DEVICE"
EXCLUDE: Final = "NETWORK_DEVICE_EXCLUDELIST"
INCLUDE: Final = "NETWORK_DEVICE_INCLUDELIST"
CA_FILE: Final = "VSENSOR_CA_FILE"
CONFIG_PATH: Final = "OSSENSOR_CONFIG_PATH"
SENSOR_NAME: Final = "OSSENSOR_SENSOR_NAME"
STATUS_SOCKET: Final = "OSSENSOR_STATUS_SOCKET"
# Not ours: the ECS agent puts it into every container of a task.
TASK_METADATA: Final = "ECS_CONTAINER_METADATA_URI_V4"
BPF: Final = "BPF"

# The names that these variables had in earlier sensors of this kind.
OLD_NAMES: Final = {"NETWORK_DEVICE_BLACKLIST": EXCLUDE, "NETWORK_DEVICE_WHITELIST": INCLUDE}

# libpcap's MAXIMUM_SNAPLEN; 65535, its tools' former default, cuts super-frames.
SNAPLEN_MAX_BYTES: Final = 262_144


def _variable(name: str, meaning: str, allowed: str, *, default: str = "") -> Any:
    """A row. `default` is the text that a user would have written."""
    extra: dict[str, Any] = {"allowed": allowed}
    return Field(default=default, alias=name, description=meaning, json_schema_extra=extra)


def _number(name: str, meaning: str, low: int, high: int, *, default: int) -> Any:
    extra: dict[str, Any] = {"allowed": f"a whole number from {low} to {high}"}
    return Field(default=str(default), alias=name, description=meaning, ge=low, le=high, json_schema_extra=extra)


_TRUTH = "true, false, 1, 0, yes, no, on or off"
_ERES = "patterns as egrep takes them, separated by white space"
_Whole = Annotated[int, BeforeValidator(values.whole)]
_Flag = Annotated[bool, BeforeValidator(values.flag)]
_Patterns = Annotated[tuple[str, ...], BeforeValidator(values.patterns)]


class Form(BaseSettings):
    """The one table of variables. Attributes are named as in Settings; aliases are the variables."""

    model_config = SettingsConfigDict(
        frozen=True, case_sensitive=True, validate_default=True, hide_input_in_errors=True, extra="forbid"
    )

    vsensor_hostname: Annotated[str, BeforeValidator(values.host)] = _variable(
        HOSTNAME,
        "The vSensor's host name. Required.",
        "a host name, an IPv4 address or an IPv6 address in brackets, without scheme, port or path",
    )
    hmac_key: Annotated[bytes, BeforeValidator(values.key)] = _variable(
        KEY, "The key shared with the vSensor. Required, here or in a file.", "text without line breaks"
    )
    hmac_key_file: Annotated[bytes, BeforeValidator(values.key_file)] = _variable(
        KEY_FILE,
        "A file that holds the key instead; one line break at its end is not part of the key.",
        "the path of a readable file with one line of UTF-8 text",
    )
    hmac_key_next: Annotated[bytes, BeforeValidator(values.key)] = _variable(
        KEY_NEXT,
        "The key that comes after this one: while both are given, either is good, so that the key can be changed at one"
        " end after the other.",
        "text without line breaks",
    )
    hmac_key_next_file: Annotated[bytes, BeforeValidator(values.key_file)] = _variable(
        KEY_NEXT_FILE,
        "A file that holds the next key instead.",
        "the path of a readable file with one line of UTF-8 text",
    )
    vsensor_port: _Whole = _number("VSENSOR_PORT", "The vSensor's port.", 1, 65535, default=443)
    tls: Literal["key", "ca"] = _variable(
        "VSENSOR_TLS",
        "How the vSensor's certificate is judged: `key`, it is proven with the shared key, and pinned; `ca`, it must"
        " lead to a CA and bear the host name, and the key is proven too.",
        "key or ca",
        default="key",
    )
    ca_file: Annotated[Path | None, BeforeValidator(values.certificates)] = _variable(
        CA_FILE,
        "With VSENSOR_TLS=ca: certificates (PEM) that the vSensor's must lead to, or its own. Empty: the system's.",
        "the path of a readable file of PEM certificates",
    )
    network_device: Annotated[tuple[str, ...] | None, BeforeValidator(values.devices)] = _variable(
        DEVICE,
        "The interfaces to capture, or `default`: those of the default routes. Empty: all except loopback."
        " The lists below apply in any case.",
        "names of interfaces separated by white space, or `default`",
    )
    config_path: Annotated[Path, BeforeValidator(lambda text: Path(text).absolute())] = _variable(
        CONFIG_PATH,
        "The config file: read when it is there, written when it is not. From the environment only.",
        "a path",
        default="/etc/darktrace/ossensor.cfg",
    )
    debug: _Whole = _number(
        "OSSENSOR_DEBUG", "How much is logged, from 0 (least) to 5 (packet contents).", 0, 5, default=1
    )
    antigena_enabled: _Flag = _variable(
        "ANTIGENA_ENABLED", "Whether the vSensor may order connections to be ended.", _TRUTH, default="true"
    )
    antigena_time_period_s: _Whole = _number(
        "ANTIGENA_TIME_PERIOD", "Seconds between two exchanges about Antigena actions.", 1, 3600, default=5
    )
    antigena_mode: Literal["enforce", "observe"] = _variable(
        "OSSENSOR_ANTIGENA_MODE",
        "Whether connections are ended as ordered, or what would have been done is only counted and reported.",
        "enforce or observe",
        default="enforce",
    )
    antigena_protect: Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(values.networks)] = _variable(
        "OSSENSOR_ANTIGENA_PROTECT",
        "Networks whose connections are never ended, whatever the vSensor orders.",
        "addresses and ADDRESS/LENGTH, separated by white space",
    )
    exclude: _Patterns = _variable(EXCLUDE, "Interfaces that are not captured. Wins over the include list.", _ERES)
    include: _Patterns = _variable(INCLUDE, "When given, only interfaces that match are captured.", _ERES)
    bpf: str = _variable(
        BPF, "Only packets that this filter lets through are captured.", "a filter as pcap-filter(7) defines it"
    )
    sensor_name: Annotated[str, BeforeValidator(values.sensor)] = _variable(
        SENSOR_NAME,
        "The sensor's name at the vSensor. Empty: the id of the ECS task, in one, or the host name.",
        "1 to 63 of A-Z a-z 0-9 . _ - beginning with a letter or digit",
    )
    engine: Literal["auto", "ring", "pypcap"] = _variable(
        "OSSENSOR_ENGINE",
        "What captures: `auto` takes the kernel's ring wherever it can.",
        "auto, ring or pypcap",
        default="auto",
    )
    snaplen: _Whole = _number(
        "OSSENSOR_SNAPLEN", "Bytes of each packet that are kept.", 64, SNAPLEN_MAX_BYTES, default=SNAPLEN_MAX_BYTES
    )
    complete_checksums: _Flag = _variable(
        "OSSENSOR_COMPLETE_CHECKSUMS",
        "Whether checksums that the kernel left to the network card are finished in what is captured (`ring` only).",
        _TRUTH,
        default="true",
    )
    batch_ms: _Whole = _number(
        "OSSENSOR_BATCH_MS", "Milliseconds after which a batch is sent though it is not full.", 10, 60_000, default=250
    )
    compression: Annotated[Policy, BeforeValidator(Policy.parse)] = _variable(
        "OSSENSOR_COMPRESSION",
        "How batches are compressed (zstd): `auto`, while a sample shrinks to 1/1.2; or always, at this level.",
        "auto, off, or a level from 1 to 19",
        default="auto",
    )
    ring_mb: _Whole = _number("OSSENSOR_RING_MB", "MiB of each interface's kernel ring, at most.", 1, 1024, default=16)
    buffer_mb: _Whole = _number(
        "OSSENSOR_BUFFER_MB",
        "MiB of each interface's batches that wait for the vSensor, at most.",
        4,
        4096,
        default=32,
    )
    memory_mb: _Whole = _number(
        "OSSENSOR_MEMORY_MB", "MiB of rings and buffers of all interfaces together.", 3, 1 << 20, default=256
    )
    drain_s: _Whole = _number(
        "OSSENSOR_DRAIN_SECONDS", "Seconds that delivering the rest may take at a stop.", 1, 600, default=25
    )
    spool_dir: Annotated[Path | None, BeforeValidator(values.folder)] = _variable(
        "OSSENSOR_SPOOL_DIR",
        "Where batches wait on disk when memory runs short while the vSensor is away, and over a stop. No other sensor"
        " may use it. Empty: nowhere.",
        "the path of a folder; it is made when it is not there",
    )
    spool_mb: _Whole = _number("OSSENSOR_SPOOL_MB", "MiB of batches on disk, at most.", 4, 1 << 20, default=1024)
    metrics_address: Annotated[tuple[str, int] | None, BeforeValidator(values.address)] = _variable(
        "OSSENSOR_METRICS_ADDRESS",
        "Where Prometheus may fetch /metrics, without encryption or password. Empty: nowhere.",
        "an IP address and a port: 127.0.0.1:9464 or [::1]:9464",
    )
    status_socket: Annotated[str, BeforeValidator(values.local_socket)] = _variable(
        STATUS_SOCKET,
        "Where `ossensor status` and `ossensor health` ask, as root or as the sensor's user: an abstract name, which"
        " needs no file system, or a path. `off`: nowhere.",
        "@ and a name, an absolute path, 107 bytes at most, or off",
        default="@ossensor",
    )
    log_format: Literal["text", "json"] = _variable(
        "OSSENSOR_LOG_FORMAT", "How log records are written.", "text or json", default="text"
    )
    user: Annotated[str, BeforeValidator(values.user)] = _variable(
        "OSSENSOR_USER",
        "The user that every process but the supervisor becomes.",
        "a user name or a numeric user id, but not root",
        default="65534",  # nobody, in a container without /etc/passwd too
    )
    seccomp: Literal["auto", "kill", "log", "off"] = _variable(
        "OSSENSOR_SECCOMP",
        "What becomes of a process, but the supervisor, that makes a system call which it has no use for: it is ended,"
        " or the kernel's log is told. `auto`: `kill` on x86_64, `log` elsewhere. `kill` shuts it off from files, too.",
        "auto, kill, log or off",
        default="auto",
    )
    capture_credential_endpoints: _Flag = _variable(
        "OSSENSOR_CAPTURE_CREDENTIAL_ENDPOINTS",
        "Whether traffic with the cloud's credential endpoints, which carries keys in clear, is captured too.",
        _TRUTH,
        default="false",
    )

    @classmethod
    def of(cls, environment: Mapping[str, str], file: Mapping[str, str]) -> Self:
        """The values of these texts, the environment's before the file's. Raises pydantic's ValidationError."""
        sources: dict[str, Any] = {"environment": environment, "file": file}
        return cls(**sources)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  would read os.environ, and tuples as JSON
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  would expand ${}
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  VSENSOR_HMAC_KEY_FILE names its file
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The two mappings that `of` gave, and nothing else; the first source wins."""
        given = init_settings()
        return InitSettingsSource(settings_cls, given["environment"]), InitSettingsSource(settings_cls, given["file"])


class Row(NamedTuple):
    """A variable as people read of it. `default` is the text that would stand for it."""

    name: str
    default: str
    meaning: str
    allowed: str


def _row(info: Any) -> Row:
    return Row(
        str(info.alias), str(info.default), str(info.description), str(cast(Any, info.json_schema_extra)["allowed"])
    )


ROWS: Final = {row.name: row for row in map(_row, Form.model_fields.values())}


def describe() -> list[Row]:
    """Every variable, in the order in which a reader wants them."""
    return list(ROWS.values())
