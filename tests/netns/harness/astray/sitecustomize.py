"""Put first on a sensor's PYTHONPATH: whichever process of its gets SIGUSR1 starts a program, as an intruder would."""

from __future__ import annotations

import os
import signal

signal.signal(signal.SIGUSR1, lambda *_: os.execv("/bin/true", ["true"]))  # noqa: S606  on purpose
