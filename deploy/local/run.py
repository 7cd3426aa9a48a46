"""`make run`: a vSensor on 127.0.0.1:8443 and the sensor against it, on this machine's own traffic, until Ctrl-C.

Everything it makes is under .run/ in the project's folder, or in $RUN_DIR: the key, the token of the vSensor's page,
its certificate, the stored packets.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
RUN: Final = Path(os.environ.get("RUN_DIR") or ROOT / ".run")
STORE: Final = RUN / "store"
KEY: Final = RUN / "hmac.key"
TOKEN: Final = RUN / "token"
OSSENSOR: Final = Path(sys.executable).with_name("ossensor")
HOST: Final = "127.0.0.1"
PORT: Final = int(os.environ.get("PORT", "8443"))
_LISTENING_WITHIN_S: Final = 20.0
_STOP_WITHIN_S: Final = 40.0  # more than the sensor's own drain limit


# What this script decides; every other variable of the environment reaches the sensor.
DECIDED: Final = ("VSENSOR_HOSTNAME", "VSENSOR_PORT", "VSENSOR_HMAC_KEY", "VSENSOR_TLS", "OSSENSOR_CONFIG_PATH")


def make_secrets() -> None:
    """The key and the token, once. Raises PermissionError when an earlier run was somebody else's."""
    RUN.mkdir(mode=0o700, exist_ok=True)
    if not os.access(RUN, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(RUN)
    for path in (KEY, TOKEN):
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")


def shown(path: Path) -> Path:
    """The path as it is typed in the project's folder."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def start(arguments: list[str], **more: str) -> subprocess.Popen[bytes]:
    """A command of ours in a session of its own: Ctrl-C is for this script, which stops them in order."""
    environ = {k: v for k, v in os.environ.items() if k not in DECIDED}
    environ |= {"VSENSOR_HMAC_KEY_FILE": str(KEY), **more}
    return subprocess.Popen(
        [str(OSSENSOR), *arguments],
        env=environ,
        start_new_session=True,
        preexec_fn=_end_with_this_script,  # noqa: PLW1509  no threads here
    )


def _end_with_this_script() -> None:
    """SIGTERM when this script is gone, however it went (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def wait_until_listening(vsensor: subprocess.Popen[bytes]) -> bool:
    deadline_s = time.monotonic() + _LISTENING_WITHIN_S
    while time.monotonic() < deadline_s and vsensor.poll() is None:
        try:
            socket.create_connection((HOST, PORT), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def stop(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def port_is_free() -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, PORT))
        except OSError:
            return False
    return True


def report(since_s: float) -> None:
    files = [file for file in sorted(STORE.glob("*/*/*.pcapng")) if file.stat().st_mtime >= since_s]
    if not files:
        print("\nNothing crossed the captured interfaces.")
        return
    print("\nStored in this run:")
    for file in files:
        print(f"  {shown(file)}  {file.stat().st_size:,} bytes")
    print(f"Read one with: {'sudo ' if 'SUDO_USER' in os.environ else ''}tshark -r {shown(files[-1])}")


def main() -> int:
    """Runs both until one ends or Ctrl-C; stops the sensor first, so that its last packets arrive."""
    if not port_is_free():
        print(f"make run: {HOST}:{PORT} is in use; choose another: make run PORT=9443", file=sys.stderr)
        return 1
    try:
        make_secrets()
    except PermissionError:
        print("make run: .run belongs to somebody else; use sudo make run, or remove it", file=sys.stderr)
        return 1
    since_s = time.time()
    for number in (signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        signal.signal(number, signal.default_int_handler)
    sensor = vsensor = None
    try:
        options = ["--store", str(STORE), "--operator-token-file", str(TOKEN)]
        vsensor = start(["vsensor", "--listen", f"{HOST}:{PORT}", *options])
        if not wait_until_listening(vsensor):
            print("make run: the vSensor did not start", file=sys.stderr)
            return 1
        sensor = start(
            ["run"],
            VSENSOR_HOSTNAME=HOST,
            VSENSOR_PORT=str(PORT),
            OSSENSOR_CONFIG_PATH=str(RUN / "ossensor.cfg"),
        )
        print(f"Packets arrive in {shown(STORE)}/<sensor>/<interface>/*.pcapng; Ctrl-C stops.")
        print(f"The page: https://{HOST}:{PORT}/, with the token in {shown(TOKEN)}.", flush=True)
        while sensor.poll() is None and vsensor.poll() is None:
            time.sleep(0.2)
        if sensor.returncode == 77:
            print("make run: try: sudo make run", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopping: the sensor first, so that its last packets arrive.", flush=True)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave one of them running
        code = stop(sensor) if sensor is not None else 1
        if vsensor is not None:
            stop(vsensor)
    report(since_s)
    return code


if __name__ == "__main__":
    sys.exit(main())
