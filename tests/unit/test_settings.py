from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from functools import partial
from pathlib import Path

import certifi
import pytest

from ossensor import settings as module
from ossensor.errors import ConfigurationError
from ossensor.settings import (
    Loaded,
    Settings,
    bpf_fault,
    describe,
    load,
    load_interface_settings,
    load_status_settings,
    load_vsensor_keys,
)
from ossensor.transport.compression import Policy
from ossensor.values import sanitised

SECRET = "the-key-of-all-keys-0123456789"
Load = Callable[..., Loaded]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where the config file is looked for; absent until a test writes it."""
    return tmp_path / "ossensor.cfg"


@pytest.fixture
def given(config: Path) -> Load:
    """Loads an environment of what is required and these variables, on a machine with lo, eth0 and eth1."""

    def _given(**variables: str | None) -> Loaded:
        environ = {"VSENSOR_HOSTNAME": "v.example", "VSENSOR_HMAC_KEY": SECRET, "OSSENSOR_CONFIG_PATH": str(config)}
        return load(
            {name: text for name, text in (environ | variables).items() if text is not None},
            bpf_fault=lambda expression: "bad filter" if "bad" in expression else None,
            interface_names=lambda: ["lo", "eth0", "eth1"],
        )

    return _given


def faults_of(call: Callable[[], object]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        call()
    return caught.value.faults


def test_the_defaults_are_those_of_the_documentation(given: Load, config: Path) -> None:
    expected = Settings(
        vsensor_hostname="v.example",
        vsensor_port=443,
        hmac_key=SECRET.encode(),
        hmac_key_next=b"",
        tls="key",
        ca_file=None,
        network_device=None,
        config_path=config,
        debug=1,
        antigena_enabled=True,
        antigena_time_period_s=5,
        antigena_mode="enforce",
        antigena_protect=(),
        exclude=(),
        include=(),
        bpf="",
        sensor_name=sanitised(socket.gethostname()),
        engine="auto",
        snaplen=262_144,
        complete_checksums=True,
        batch_ms=250,
        compression=Policy(1, always=False),
        ring_mb=16,
        buffer_mb=32,
        memory_mb=256,
        drain_s=25,
        spool_dir=None,
        spool_mb=1024,
        metrics_address=None,
        status_socket="@ossensor",
        log_format="text",
        user="65534",
        seccomp="auto",
        capture_credential_endpoints=False,
    )

    loaded = given()

    assert expected == loaded.settings
    assert loaded.warnings == []
    assert Counter(loaded.sources.values()) == {"environment": 3, "default": 33}


def test_without_a_config_path_it_is_the_documented_one() -> None:
    (row,) = [row for row in describe() if row.name == "OSSENSOR_CONFIG_PATH"]

    assert row.default == "/etc/darktrace/ossensor.cfg"


def test_every_fault_is_told_at_once_in_the_order_of_the_table(given: Load) -> None:
    wrong = {
        "VSENSOR_HOSTNAME": "a:b",
        "VSENSOR_PORT": "70000",
        "OSSENSOR_NETWORK_DEVICE": "nosuch0",
        "OSSENSOR_DEBUG": "6",
        "ANTIGENA_ENABLED": "maybe",
        "NETWORK_DEVICE_EXCLUDELIST": "(",
        "NETWORK_DEVICE_INCLUDELIST": "[",
        "BPF": "bad",
        "OSSENSOR_USER": "root",
    }
    faults = faults_of(lambda: given(VSENSOR_HMAC_KEY=None, **wrong))

    expected = [row.name for row in describe() if row.name in wrong or row.name == "VSENSOR_HMAC_KEY"]
    assert len(expected) == 10
    assert expected == [fault.split(":")[0] for fault in faults]


@pytest.mark.parametrize("absent", [None, ""])
@pytest.mark.parametrize("variable", ["VSENSOR_HOSTNAME", "VSENSOR_HMAC_KEY"])
def test_what_is_required_is_missing_when_unset_and_when_empty(variable: str, absent: str | None, given: Load) -> None:
    (fault,) = faults_of(lambda: given(**{variable: absent}))

    assert fault.startswith(f"{variable}: not given")


def test_an_empty_variable_is_as_good_as_none(given: Load) -> None:
    empty = {row.name: "" for row in describe() if row.name not in {"VSENSOR_HOSTNAME", "VSENSOR_HMAC_KEY"}}
    del empty["OSSENSOR_CONFIG_PATH"]  # or the machine's own file would be read

    assert given().settings == given(**empty).settings


@pytest.mark.parametrize("bad,why", [("a\0b", "NUL"), ("a\udcffb", "UTF-8")])
def test_nul_and_bytes_that_are_no_utf8_are_refused_in_every_variable(bad: str, why: str, given: Load) -> None:
    for row in describe():
        variables = (
            {"VSENSOR_HMAC_KEY": None, row.name: bad}
            if row.name in {"VSENSOR_HMAC_KEY", "VSENSOR_HMAC_KEY_FILE"}
            else {row.name: bad}
        )
        (fault,) = faults_of(partial(given, **variables))

        assert fault.startswith(f"{row.name}: ")
        assert why in fault


def test_the_next_key_is_shown_nowhere_and_counts_at_both_ends(given: Load) -> None:
    loaded = given(VSENSOR_HMAC_KEY_NEXT="the next key, of thirty-two bytes")

    assert loaded.settings.hmac_key_next == b"the next key, of thirty-two bytes"
    assert loaded.texts["VSENSOR_HMAC_KEY_NEXT"] == "********"
    assert "thirty-two" not in repr(loaded)
    assert "VSENSOR_HMAC_KEY_NEXT" not in {line.name for line in loaded.config_lines()}
    both = load_vsensor_keys({"VSENSOR_HMAC_KEY": SECRET, "VSENSOR_HMAC_KEY_NEXT": "another"})
    assert both == [SECRET.encode(), b"another"]
    (fault,) = faults_of(partial(given, VSENSOR_HMAC_KEY_NEXT="two\nlines"))
    assert "two" not in fault


def test_a_next_key_under_16_bytes_is_warned_of(given: Load) -> None:
    assert given(VSENSOR_HMAC_KEY_NEXT="n" * 15).warnings == [
        "VSENSOR_HMAC_KEY_NEXT is shorter than 16 bytes, and can be guessed"
    ]
    assert given(VSENSOR_HMAC_KEY_NEXT="n" * 16).warnings == []


def test_the_next_key_may_be_in_a_file_and_is_given_once(given: Load, tmp_path: Path) -> None:
    path = tmp_path / "next"
    path.write_bytes(b"the next key, of thirty-two bytes\n")

    loaded = given(VSENSOR_HMAC_KEY_NEXT_FILE=str(path))

    assert loaded.settings.hmac_key_next == b"the next key, of thirty-two bytes"
    assert loaded.warnings == []
    keys = {"VSENSOR_HMAC_KEY": SECRET, "VSENSOR_HMAC_KEY_NEXT_FILE": str(path)}
    assert load_vsensor_keys(keys) == [SECRET.encode(), b"the next key, of thirty-two bytes"]
    (fault,) = faults_of(partial(given, VSENSOR_HMAC_KEY_NEXT="x", VSENSOR_HMAC_KEY_NEXT_FILE=str(path)))
    assert "VSENSOR_HMAC_KEY_NEXT: got a value that is not shown: " in fault
    assert "VSENSOR_HMAC_KEY_NEXT_FILE is given too" in fault


def test_a_ca_file_without_cas_is_warned_of(given: Load) -> None:
    file = certifi.where()

    assert given(VSENSOR_CA_FILE=file, VSENSOR_TLS="ca").warnings == []
    (warning,) = given(VSENSOR_CA_FILE=file).warnings
    assert warning.startswith("VSENSOR_CA_FILE counts with VSENSOR_TLS=ca only")


# -- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, key",
    [
        (b"sixteen-bytes-ok", b"sixteen-bytes-ok"),
        (b"sixteen-bytes-ok\n", b"sixteen-bytes-ok"),
        (b"sixteen-bytes-ok\r\n", b"sixteen-bytes-ok"),
        (b" a$b${HOME}#c \"'\\ \xc3\xa4", b" a$b${HOME}#c \"'\\ \xc3\xa4"),
    ],
)
def test_the_key_file_is_the_key_less_one_line_break(content: bytes, key: bytes, given: Load, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)

    loaded = given(VSENSOR_HMAC_KEY=None, VSENSOR_HMAC_KEY_FILE=str(path))

    assert key == loaded.settings.hmac_key
    assert loaded.warnings == []
    assert [key] == load_vsensor_keys({"VSENSOR_HMAC_KEY_FILE": str(path)})


@pytest.mark.parametrize("content", [b"", b"\n", b"a\n\n", b"a\nb", b"a\rb\n", b"a\0b", b"\xff\xfe" * 8, b"a" * 4097])
def test_a_key_file_without_a_usable_key_is_a_fault_that_does_not_show_it(
    content: bytes, given: Load, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)

    (fault,) = faults_of(lambda: given(VSENSOR_HMAC_KEY=None, VSENSOR_HMAC_KEY_FILE=str(path)))

    assert fault.startswith(f"VSENSOR_HMAC_KEY_FILE: got {str(path)!r}: ")
    assert [fault] == faults_of(lambda: load_vsensor_keys({"VSENSOR_HMAC_KEY_FILE": str(path)}))


def test_an_unreadable_key_file_is_named_with_the_reason_of_the_system(given: Load) -> None:
    (fault,) = faults_of(lambda: given(VSENSOR_HMAC_KEY=None, VSENSOR_HMAC_KEY_FILE="/nosuch/key"))

    assert fault.startswith("VSENSOR_HMAC_KEY_FILE: got '/nosuch/key': No such file or directory; ")


def test_key_and_key_file_together_are_a_fault(given: Load, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(SECRET)
    both = {"VSENSOR_HMAC_KEY": SECRET, "VSENSOR_HMAC_KEY_FILE": str(path)}

    (fault,) = faults_of(lambda: given(**both))

    assert "only one of the two" in fault
    assert [fault] == faults_of(lambda: load_vsensor_keys(both))


def test_the_collector_needs_a_key_and_nothing_else() -> None:
    assert load_vsensor_keys({"VSENSOR_HMAC_KEY": SECRET, "VSENSOR_PORT": "x"}) == [SECRET.encode()]
    (fault,) = faults_of(lambda: load_vsensor_keys({}))
    assert fault.startswith("VSENSOR_HMAC_KEY: not given: give it, or VSENSOR_HMAC_KEY_FILE")


@pytest.mark.parametrize("length_bytes,warnings", [(1, 1), (15, 1), (16, 0)])
def test_a_key_under_16_bytes_is_warned_of(length_bytes: int, warnings: int, given: Load) -> None:
    assert warnings == len(given(VSENSOR_HMAC_KEY="k" * length_bytes).warnings)


@pytest.mark.parametrize(
    "variables",
    [
        {"VSENSOR_HMAC_KEY": f"{SECRET}\n"},
        {"VSENSOR_HMAC_KEY": f"{SECRET}\0"},
        {"VSENSOR_HMAC_KEY": f"{SECRET}\udcff"},
        {"VSENSOR_HMAC_KEY": SECRET, "VSENSOR_HMAC_KEY_FILE": "/etc/passwd"},
        {"VSENSOR_HMAC_KEY": None, "VSENSOR_HMAC_KEY_FILE": SECRET},  # under the wrong name
        {"VSENSOR_HMAC_KEY": None, "VSENSOR_HMAC_KEYS": SECRET},
        {"VSENSOR_HMAC_KEY": SECRET, "VSENSOR_PORT": "x"},
    ],
)
def test_no_refusal_shows_the_key_or_carries_it_along(variables: dict[str, str | None], given: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        given(**variables)

    error = caught.value
    assert SECRET not in "".join([str(error), repr(error), *error.faults, *getattr(error, "__notes__", [])])
    assert (error.__cause__, error.__context__) == (None, None)


def test_no_fault_tells_the_length_of_the_key(given: Load) -> None:
    assert faults_of(lambda: given(VSENSOR_HMAC_KEY="a\n")) == faults_of(lambda: given(VSENSOR_HMAC_KEY=f"{SECRET}\n"))


def test_what_is_loaded_shows_the_key_nowhere_but_in_its_field(given: Load) -> None:
    loaded = given()

    assert SECRET not in repr(loaded)
    assert loaded.texts["VSENSOR_HMAC_KEY"] == "********"
    assert SECRET not in repr(loaded.config_lines())
    assert "VSENSOR_HMAC_KEY" not in {line.name for line in loaded.config_lines()}


# -- sources ----------------------------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(given: Load, config: Path) -> None:
    config.write_text("VSENSOR_PORT=8443\nOSSENSOR_DEBUG=3\nBPF='a$b ${HOME} #c'\n")

    loaded = given(OSSENSOR_DEBUG="4")

    assert (
        loaded.settings.vsensor_port,
        loaded.settings.debug,
        loaded.settings.bpf,
        loaded.settings.ring_mb,
    ) == (8443, 4, "a$b ${HOME} #c", 16)
    assert [f"file {config}", "environment", f"file {config}", "default"] == [
        loaded.sources[name] for name in ("VSENSOR_PORT", "OSSENSOR_DEBUG", "BPF", "OSSENSOR_RING_MB")
    ]


def test_the_process_environment_is_not_looked_at(given: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = given().settings
    for row in describe():
        monkeypatch.setenv(row.name, "7")
    for field in fields(Settings):
        monkeypatch.setenv(field.name, "7")

    assert expected == given().settings


def test_an_env_file_in_the_working_directory_is_not_looked_at(
    given: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("VSENSOR_PORT=1\nvsensor_port=1\n")
    monkeypatch.chdir(tmp_path)

    assert given().settings.vsensor_port == 443


def test_a_fault_in_the_file_is_told_like_one_in_the_environment(given: Load, config: Path) -> None:
    config.write_text("VSENSOR_PORT=0\n")

    (fault,) = faults_of(given)

    assert fault == "VSENSOR_PORT: got '0'; allowed: a whole number from 1 to 65535"


def test_a_word_boundary_in_double_quotes_in_the_file_is_no_backspace_that_excludes_nothing(
    given: Load, config: Path
) -> None:
    config.write_text('NETWORK_DEVICE_EXCLUDELIST="\\bveth"\n')
    (fault,) = faults_of(given)
    assert "pattern '\\x08veth' has a control character; in double quotes a backslash is `\\\\`" in fault

    config.write_text("NETWORK_DEVICE_EXCLUDELIST=\"\\\\bveth\"\nNETWORK_DEVICE_INCLUDELIST='\\bveth'\n")
    assert (given().settings.exclude, given().settings.include) == (("\\bveth",), ("\\bveth",))


def test_a_value_of_the_file_that_the_environment_hides_is_no_fault(given: Load, config: Path) -> None:
    config.write_text('VSENSOR_PORT=0\nBPF="bad\0"\n')

    assert given(VSENSOR_PORT="1", BPF="ip").settings.vsensor_port == 1


def test_an_empty_variable_in_the_environment_leaves_the_files_value(given: Load, config: Path) -> None:
    config.write_text("VSENSOR_PORT=8443\n")

    assert given(VSENSOR_PORT="").settings.vsensor_port == 8443


def test_a_key_in_the_environment_hides_the_key_file_that_the_config_file_names(given: Load, config: Path) -> None:
    config.write_text("VSENSOR_HMAC_KEY_FILE=/nosuch/key\n")

    loaded = given()

    assert loaded.settings.hmac_key == SECRET.encode()
    assert loaded.sources["VSENSOR_HMAC_KEY_FILE"] == "default"


def test_a_key_may_be_in_one_place_and_the_next_in_the_other(given: Load, config: Path, tmp_path: Path) -> None:
    key, next_key = tmp_path / "hmac.key", tmp_path / "next.key"
    key.write_text(SECRET)
    next_key.write_text("the next key, which is long enough\n")

    config.write_text(f"VSENSOR_HMAC_KEY_NEXT_FILE={next_key}\n")
    in_environment = given()
    config.write_text(f"VSENSOR_HMAC_KEY_FILE={key}\n")
    in_file = given(VSENSOR_HMAC_KEY=None, VSENSOR_HMAC_KEY_NEXT_FILE=str(next_key))

    for loaded in (in_environment, in_file):
        assert loaded.settings.hmac_key == SECRET.encode()
        assert loaded.settings.hmac_key_next == b"the next key, which is long enough"


def test_the_next_key_does_not_stay_in_the_config_file_that_is_written(given: Load, tmp_path: Path) -> None:
    next_key = tmp_path / "next.key"
    next_key.write_text("the next key, which is long enough\n")

    lines = given(VSENSOR_HMAC_KEY_NEXT_FILE=str(next_key)).config_lines()

    assert [line.explicit for line in lines if line.name == "VSENSOR_HMAC_KEY_NEXT_FILE"] == [False]


def test_the_config_path_counts_in_the_environment_only(given: Load, config: Path) -> None:
    config.write_text("OSSENSOR_CONFIG_PATH=/elsewhere\n")

    loaded = given()

    assert loaded.settings.config_path == config
    assert loaded.warnings == [f"OSSENSOR_CONFIG_PATH counts in the environment only, not in {config}"]


@pytest.mark.parametrize("old,new", [("BLACKLIST", "EXCLUDELIST"), ("WHITELIST", "INCLUDELIST")])
def test_an_old_name_is_taken_with_a_warning_and_refused_when_it_contradicts_the_new_one(
    old: str, new: str, given: Load
) -> None:
    old, new = f"NETWORK_DEVICE_{old}", f"NETWORK_DEVICE_{new}"

    assert given(**{old: "^eth"}).warnings == [f"{old} is the old name of {new}"]
    assert given(**{old: "^eth"}).sources[new] == "environment"
    assert given(**{old: "^eth", new: "^eth"}).settings == given(**{new: "^eth"}).settings
    (fault,) = faults_of(lambda: given(**{old: "^eth", new: "^veth"}))
    assert fault.startswith(f"{new}: got '^veth': {old}, its old name, is given too and differs")


def test_an_unknown_name_is_warned_of_with_the_nearest_known_one(given: Load, config: Path) -> None:
    config.write_text("EXCLUDELIST=^a\n")

    loaded = given(VSENSOR_PROT="1", OSSENSOR_DEBUGGING="1", SOMETHING_ELSE="1", OSSENSOR_DEBUG="2")

    assert loaded.warnings == [
        "'VSENSOR_PROT' in the environment is no variable of ossensor; did you mean VSENSOR_PORT?",
        "'OSSENSOR_DEBUGGING' in the environment is no variable of ossensor; did you mean OSSENSOR_DEBUG?",
        f"'EXCLUDELIST' in the file {config} is no variable of ossensor; did you mean NETWORK_DEVICE_EXCLUDELIST?",
    ]


def test_a_refusal_has_the_warnings_as_notes(given: Load) -> None:
    with pytest.raises(ConfigurationError) as caught:
        given(VSENSOR_HOSTNAME=None, VSENSOR_HOSTNAM="v.example")

    assert caught.value.__notes__ == [
        "'VSENSOR_HOSTNAM' in the environment is no variable of ossensor; did you mean VSENSOR_HOSTNAME?"
    ]


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_settings_cannot_be_changed(given: Load) -> None:
    with pytest.raises(FrozenInstanceError):
        given().settings.debug = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    "expression,reason",
    [("tcp port 80", None), ("vlan and ip6", None), ("tcp prot 80", "bad filter"), ("tcp and (", "bad filter")],
)
def test_libpcap_judges_the_filter(expression: str, reason: str | None) -> None:
    assert reason == bpf_fault(expression)


def test_the_interfaces_that_the_settings_know_are_those_of_the_kernel() -> None:
    assert sorted(path.name for path in Path("/sys/class/net").iterdir()) == sorted(module.interface_names())


def test_interface_settings_load_whatever_is_wrong_elsewhere_and_tell_of_it(config: Path) -> None:
    environ = {"OSSENSOR_CONFIG_PATH": str(config), "VSENSOR_PORT": "0", "NETWORK_DEVICE_INCLUDELIST": "^eth ^lo$"}

    loaded = load_interface_settings(environ, interface_names=list)

    assert loaded.include == ("^eth", "^lo$")
    assert (loaded.network_device, loaded.exclude) == (None, ())
    assert [r.split(":")[0] for r in loaded.remarks] == ["VSENSOR_HOSTNAME", "VSENSOR_HMAC_KEY", "VSENSOR_PORT"]


def test_whoever_asks_for_the_status_needs_its_address_alone_and_is_told_what_else_is_wrong(config: Path) -> None:
    environ = {"OSSENSOR_CONFIG_PATH": str(config), "OSSENSOR_STATUS_SOCKET": "@other"}

    assert load_status_settings(environ) == ("@other", [])
    found = load_status_settings(environ | {"VSENSOR_PORT": "0"})
    assert (found.address, [fault.split(":")[0] for fault in found.faults]) == ("@other", ["VSENSOR_PORT"])


def test_an_address_for_the_status_that_is_none_is_refused_and_so_is_a_config_file_that_cannot_be_read(
    config: Path,
) -> None:
    environ = {"OSSENSOR_CONFIG_PATH": str(config), "OSSENSOR_STATUS_SOCKET": "other"}
    (address,) = faults_of(lambda: load_status_settings(environ))
    config.mkdir()
    (path, _) = faults_of(lambda: load_status_settings(environ))

    assert address.startswith("OSSENSOR_STATUS_SOCKET: got 'other'")
    assert path.startswith(f"OSSENSOR_CONFIG_PATH: {config}: Is a directory")


def test_interface_settings_are_refused_for_their_own_faults_only(config: Path) -> None:
    environ = {"OSSENSOR_CONFIG_PATH": str(config), "VSENSOR_PORT": "0", "NETWORK_DEVICE_INCLUDELIST": "["}

    (fault,) = faults_of(lambda: load_interface_settings({**environ, "OSSENSOR_NETWORK_DEVICE": "default"}))

    assert fault.startswith("NETWORK_DEVICE_INCLUDELIST: ")
