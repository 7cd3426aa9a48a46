"""`ossensor systemd install`: what it writes, what it leaves, and what systemd's own tools say of the unit."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossensor.cli import main
from ossensor.errors import ConfigurationError, Exit
from ossensor.settings import load
from ossensor.systemd.ini import migrated
from ossensor.systemd.install import install, unit
from ossensor.variables import KEY_NEXT_FILE

SECRET = "the%(key)s of all keys = 0123456789; abc # def"
DEPLOYED = Path(__file__).parents[2] / "deploy/systemd/ossensor.service"
INI = f"""\
[osSensor]
Debug = 2
vSensor = v.example:8443
key = {SECRET}
device = lo
useAntigena = False
sendAntigenaActionDelta = 7
blacklist_device = ^veth,^docker
bpf = not port 22
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    """Something that can be executed, as systemd-analyze wants."""
    made = tmp_path / "bin" / "ossensor"
    made.parent.mkdir()
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    return str(made)


def _ini(tmp_path: Path, text: str = INI) -> Path:
    path = tmp_path / "old.ini"
    path.write_text(text)
    path.chmod(0o600)
    return path


# -- the unit ---------------------------------------------------------------------------------------------------------


def test_the_unit_that_is_deployed_is_the_one_that_is_installed() -> None:
    assert DEPLOYED.read_text() == unit("/usr/local/bin/ossensor")


def test_systemd_finds_nothing_to_say_about_the_unit(tmp_path: Path, program: str) -> None:
    path = tmp_path / "ossensor.service"
    path.write_text(unit(program))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)

    # It ends with 0 also for a line that it does not know: what it says is what counts.
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_takes_what_the_page_says_of_a_second_key_beside_the_unit(tmp_path: Path, program: str) -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    (dropin,) = re.findall(r"^```ini\n(\[Service\]\n.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    path = tmp_path / "ossensor.service"
    path.write_text(unit(program))
    (tmp_path / "ossensor.service.d").mkdir()
    (tmp_path / "ossensor.service.d/override.conf").write_text(dropin)

    argv = ["systemd-analyze", "verify", path]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert re.findall(r"^LoadCredential=(.*)$", dropin, flags=re.MULTILINE) == ["hmac-key-next:/etc/ossensor/next.key"]
    assert re.findall(r"^Environment=(.*)=%d/hmac-key-next$", dropin, flags=re.MULTILINE) == [KEY_NEXT_FILE]


def test_systemd_rates_the_exposure_at_two_at_most() -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", DEPLOYED]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout


def test_a_program_whose_path_systemd_would_read_otherwise_is_escaped() -> None:
    assert "\nExecStart=/opt/100%%/ossensor run\n" in unit("/opt/100%/ossensor")
    assert '\nExecStart="/opt/a b/ossensor" run\n' in unit("/opt/a b/ossensor")


def test_the_unit_does_not_start_again_what_cannot_work() -> None:
    (line,) = re.findall("^RestartPreventExitStatus=(.*)$", DEPLOYED.read_text(), flags=re.MULTILINE)

    assert set(map(int, line.split())) == {Exit.PRIVILEGE, Exit.CONFIGURATION}


# -- the INI file -----------------------------------------------------------------------------------------------------


def test_every_option_becomes_its_variable_and_the_key_stays_apart() -> None:
    old = migrated(INI, load)

    assert old.settings == {
        "OSSENSOR_DEBUG": "2",
        "VSENSOR_HOSTNAME": "v.example",
        "VSENSOR_PORT": "8443",
        "OSSENSOR_NETWORK_DEVICE": "lo",
        "ANTIGENA_ENABLED": "False",
        "ANTIGENA_TIME_PERIOD": "7",
        "NETWORK_DEVICE_EXCLUDELIST": "^veth ^docker",
        "BPF": "not port 22",
    }
    assert old.key == SECRET
    assert SECRET not in repr(old)
    assert old.remarks == [
        "the port in 'vSensor' becomes VSENSOR_PORT",
        "the commas in NETWORK_DEVICE_EXCLUDELIST become spaces",
    ]


@pytest.mark.parametrize(
    "given,host,port",
    [
        ("v.example:8443", "v.example", "8443"),
        ("192.0.2.1:8443", "192.0.2.1", "8443"),
        ("[2001:db8::1]:8443", "[2001:db8::1]", "8443"),
        ("[2001:db8::1]", "[2001:db8::1]", None),
    ],
)
def test_a_port_behind_the_vsensor_becomes_a_setting_of_its_own(given: str, host: str, port: str | None) -> None:
    settings = migrated(f"[osSensor]\nvsensor={given}\nkey={SECRET}\n", load).settings

    assert (settings["VSENSOR_HOSTNAME"], settings.get("VSENSOR_PORT")) == (host, port)


def test_unknown_options_and_sections_and_any_device_are_remarked_upon() -> None:
    text = f"[other]\na=1\n[OSSENSOR]\nvsensor=v\nkey={SECRET}\ndevice=any\ncolour=red\n"

    old = migrated(text, load)

    assert old.settings == {"VSENSOR_HOSTNAME": "v"}
    assert old.remarks == [
        "the section 'other' is left out",
        "'colour' is no option that is known here, and is left out",
        "'device = any' means every interface but loopback here, which is what nothing means, too",
    ]


def test_an_indented_line_that_becomes_a_part_of_the_option_above_it_is_remarked_upon() -> None:
    old = migrated(f"[osSensor]\nvsensor=v\nkey={SECRET}\nblacklist_device=veth\n bpf=not port 22\n", load)

    assert old.settings["NETWORK_DEVICE_EXCLUDELIST"] == "veth\nbpf=not port 22"
    assert old.remarks == ["'blacklist_device' goes on in a line that is indented"]


def test_all_faults_are_shown_at_once_with_their_options() -> None:
    with pytest.raises(ConfigurationError) as error:
        migrated("[osSensor]\nDebug=9\nblacklist_device=eth[\nbpf=nonsense\n", load)

    assert [(f.partition(":")[0], f.rpartition("(")[2]) for f in error.value.faults] == [
        ("VSENSOR_HOSTNAME", "from the option 'vsensor')"),
        ("VSENSOR_HMAC_KEY", "from the option 'key')"),
        ("OSSENSOR_DEBUG", "from the option 'debug')"),
        ("NETWORK_DEVICE_EXCLUDELIST", "from the option 'blacklist_device')"),
        ("BPF", "from the option 'bpf')"),
    ]


@pytest.mark.parametrize(
    "text,fault",
    [
        (f"key={SECRET}\n", "no section stands before the first option"),
        (f"[osSensor]\n{SECRET.replace('=', '').replace(':', '')}\n", "not `name = value` in line 2"),
        ("[somebody]\na=1\n", "it has no section [osSensor], or several"),
        ("", "it has no section [osSensor], or several"),
    ],
)
def test_what_is_no_ini_file_of_a_sensor_is_one_fault_without_its_text(text: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        migrated(text, load)

    assert error.value.faults == [f"the INI file: {fault}"]


# -- the installer ----------------------------------------------------------------------------------------------------


def _tree(root: Path) -> dict[str, tuple[int, int, str]]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(p.relative_to(root)): (stat.S_IMODE(p.stat().st_mode), p.stat().st_ino, p.read_text()) for p in files}


@pytest.fixture
def _careful_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_careful_umask")
def test_what_is_installed_is_what_the_sensor_would_read(
    tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    assert install(root=root, ini=_ini(tmp_path), dry_run=False, program=program) == 0

    written = _tree(root)
    assert {name: mode for name, (mode, _, _) in written.items()} == {
        "etc/darktrace/ossensor.cfg": 0o644,
        "etc/ossensor/hmac.key": 0o600,
        "etc/systemd/system/ossensor.service": 0o644,
    }
    config, key = root / "etc/darktrace/ossensor.cfg", root / "etc/ossensor/hmac.key"
    settings = load({"OSSENSOR_CONFIG_PATH": str(config), "VSENSOR_HMAC_KEY_FILE": str(key)}).settings
    assert (settings.hmac_key, settings.vsensor_hostname, settings.vsensor_port) == (SECRET.encode(), "v.example", 8443)
    assert (settings.exclude, settings.bpf, settings.antigena_enabled) == (("^veth", "^docker"), "not port 22", False)
    out, err = capsys.readouterr()
    assert SECRET not in out + err + written["etc/darktrace/ossensor.cfg"][2]
    assert out.splitlines()[-2:] == [
        "next: systemctl daemon-reload && systemctl enable --now ossensor",
        "then: ossensor status",
    ]


def test_installed_again_nothing_changes(tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    root, ini = tmp_path / "root", _ini(tmp_path)
    install(root=root, ini=ini, dry_run=False, program=program)
    before = _tree(root)
    capsys.readouterr()

    assert install(root=root, ini=ini, dry_run=False, program=program) == 0

    assert _tree(root) == before
    assert [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()[:3]] == ["is as it should be"] * 3


def test_settings_and_key_that_are_there_are_left_and_the_unit_is_brought_up_to_date(
    tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    for name in ("etc/darktrace/ossensor.cfg", "etc/ossensor/hmac.key", "etc/systemd/system/ossensor.service"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("mine\n")

    assert install(root=root, ini=_ini(tmp_path), dry_run=False, program=program) == 0

    assert [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()[:3]] == [
        "is there and differs; it is left as it is",
        "is there and differs; it is left as it is",
        "replaced",
    ]
    assert [text for _, _, text in _tree(root).values()] == ["mine\n", "mine\n", unit(program)]


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path, program: str) -> None:
    assert install(root=tmp_path / "root", ini=_ini(tmp_path, f"\ufeff{INI}"), dry_run=True, program=program) == 0


def test_a_dry_run_says_what_would_be_and_writes_nothing(
    tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    assert install(root=root, ini=_ini(tmp_path), dry_run=True, program=program) == 0

    assert not root.exists()
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"{root}/etc/ossensor/hmac.key: would be written, mode 0600"
    assert SECRET not in out + err


def test_an_old_file_that_everybody_can_read_is_warned_of(
    tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ini = _ini(tmp_path)
    ini.chmod(0o644)
    install(root=tmp_path / "root", ini=ini, dry_run=True, program=program)

    assert f"ossensor: warning: {ini} holds the key, and everybody can read it\n" in capsys.readouterr().err


def test_a_wrong_old_file_installs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    ini = _ini(tmp_path, f"[osSensor]\nkey={SECRET}\nbpf=nonsense\n")
    assert main(["systemd", "install", "--root", str(root), "--from-ini", str(ini)]) == 78

    _, err = capsys.readouterr()
    assert [line.split(":")[1] for line in err.splitlines()] == [" VSENSOR_HOSTNAME", " BPF"]
    assert SECRET not in err
    assert not root.exists()


def test_the_settings_can_be_read_by_the_service_s_user_whatever_the_umask(tmp_path: Path, program: str) -> None:
    before = os.umask(0o077)
    try:
        assert install(root=tmp_path / "root", ini=_ini(tmp_path), dry_run=False, program=program) == 0
    finally:
        os.umask(before)

    folders = [path for path in (tmp_path / "root").rglob("*") if path.is_dir()]
    assert {
        str(path.relative_to(tmp_path / "root")): stat.S_IMODE(path.stat().st_mode) for path in folders
    } == dict.fromkeys(("etc", "etc/darktrace", "etc/ossensor", "etc/systemd", "etc/systemd/system"), 0o755)


@pytest.mark.parametrize(
    "program,why",
    [
        ("/home/me/ossensor/.venv/bin/ossensor", "/home holds the program, and is hidden from the service"),
        ("/root/bin/ossensor", "/root holds the program, and is hidden from the service"),
    ],
)
def test_a_program_that_the_unit_would_hide_from_its_service_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], program: str, why: str
) -> None:
    assert install(root=tmp_path, ini=None, dry_run=True, program=program) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert [line for line in warnings if line.startswith(f"ossensor: warning: {why}")]


def test_a_folder_of_the_program_that_others_may_not_enter_is_warned_of(
    tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned() -> list[str]:
        install(root=tmp_path / "root", ini=None, dry_run=True, program=program)
        return [line for line in capsys.readouterr().err.splitlines() if f" {folder} holds" in line]

    folder = Path(program).parent
    assert warned() == []
    folder.chmod(0o700)
    (line,) = warned()
    assert line.endswith("is not open to the service's user: it will not start; install ossensor elsewhere, as in /opt")


def test_what_cannot_be_written_is_named(tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "root").write_text("a file")

    assert install(root=tmp_path / "root", ini=None, dry_run=False, program=program) == 1
    assert "Not a directory" in capsys.readouterr().err
