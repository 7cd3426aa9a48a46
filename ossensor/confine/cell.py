"""What is left to a child: its role's system calls, and the few places where it finds its files."""

from __future__ import annotations

import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

from . import landlock, seccomp
from .policy import Mode, Role


@dataclass(frozen=True)
class Cell:
    """`mode` None: no filter, and no limit on files. `folder`: where the child may write; `mute`: see `program`."""

    role: Role
    mode: Mode | None
    folder: str = ""
    mute: tuple[int, ...] = ()

    def close(self, violation: memoryview) -> list[str]:
        """Shuts this process in, before it has a second thread. Returns what could not be had here.

        Files first: the filter lets nobody call Landlock. In mode `log` they stay open: Landlock only refuses.
        """
        if self.mode is None:
            return []
        troubles = []
        if self.mode == "kill":
            writes = [self.folder] if self.folder else []
            troubles.append(landlock.lay_on(_reads(self.role), writes, connects=self.role is Role.UPLOAD))
        troubles.append(seccomp.lay_on(self.role, self.mode, violation, self.mute))
        return [trouble for trouble in troubles if trouble]


def _reads(role: Role) -> list[str]:
    """What there is to read for a role.

    Folders, not files: /etc/resolv.conf and its like are replaced, not rewritten, and a rule would stay with the old
    file. Code is public, and a module that Python loads when it is first wanted (a codec, an exporter) must be there.
    """
    if role is Role.CAPTURE:
        return []
    # Our own is not below sys.path where it is installed for development.
    ours = str(Path(__file__).parents[1])
    code = [path for path in (ours, sys.base_prefix, sys.prefix, *sys.path) if path.startswith("/")]
    places = ["/etc", str(Path("/etc/resolv.conf").resolve().parent)]
    if role is Role.ENFORCE:
        return [*code, *places, "/run/systemd/resolve"]  # whom systemd-resolved asks
    # OpenSSL looks into its folder of certificates at each connection, and finds links there. The second is another one
    # where SSL_CERT_DIR says so.
    paths = ssl.get_default_verify_paths()
    folders = [path for path in (paths.openssl_capath, paths.capath) if path is not None]
    certificates = [*folders, "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"]
    # Whatever nsswitch.conf names is loaded from the system's libraries.
    return [*code, *places, *certificates, "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
