"""The file system of an image without a shell: rootfs.py VENV ROOT, in the build stage, on Debian.

Invariant: every shared library that an ELF file of the result is linked to is in the result, or the build fails; and
every file of Debian's comes with its package's copyright and an entry in var/lib/dpkg/status.d, where scanners look in
images without dpkg.

Which packages that takes is not written down but found: those that own the libraries which Python's and our packages'
extension modules name, and what these name in turn. Copying what dpkg installed was chosen over downloading again: it
is the same, checked by apt's signatures, and needs no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import sbom

# Beside what the libraries need: Python itself, what names the release, and names of ports and protocols for filters.
PACKAGES: Final = ("python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "base-files", "netbase")
# What neither the sensor nor the vSensor imports, of what the packages have; the first group would bring libraries.
_UNUSED_MODULES: Final = ("_curses*", "readline*", "_dbm*", "nis*", "_crypt*", "_tkinter*")
_UNUSED: Final = ("ensurepip", "idlelib", "lib2to3", "pydoc_data", "tkinter", "turtledemo", "lib-dynload/_test*")
_LEFT_OUT: Final = (
    "/usr/share/man/",
    "/usr/share/locale/",
    "/usr/share/lintian/",
    "/usr/share/base-files/",
    "/usr/share/bug/",
    "/etc/update-motd.d/",
    "/etc/profile",  # for shells
    "/usr/lib/valgrind/",
)


def main() -> None:
    venv, root = Path(sys.argv[1]), Path(sys.argv[2])
    root.mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        if (link := Path("/", name)).is_symlink():  # merged into /usr
            (root / name).symlink_to(link.readlink())
    packages = set(PACKAGES)
    for package in PACKAGES:
        copy_package(package, root)
    prune(root)
    inside = root / venv.relative_to("/")
    shutil.copytree(venv, inside, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for program in (inside / "bin").iterdir():
        if not program.name.startswith(("python", "ossensor")):  # what packages bring, and `activate` for shells
            program.unlink()
    strip(inside)
    missing = needed(root)
    while missing:
        for package in owners(missing):
            if package in packages:
                sys.exit(f"rootfs: {package} is there, and still something is missing of {sorted(missing)}")
            packages.add(package)
            copy_package(package, root)
        missing = needed(root)
    write_etc(root)
    compile_all(root, venv)
    describe(root, venv, sorted(packages))
    subprocess.run(["ldconfig", "-r", root], check=True)
    check(root, venv)


def copy_package(package: str, root: Path) -> None:
    """Every file of the package that an image has use for, at the place where it really is."""
    for line in output("dpkg-query", "-L", package):
        path = Path(line)
        if line.startswith(_LEFT_OUT) or (line.startswith("/usr/share/doc/") and path.name != "copyright"):
            continue
        if "/gconv/" in line:  # 8 MiB of character sets, for iconv(3), which Python does not call
            continue
        if path.is_dir() and not path.is_symlink():
            continue
        target = root / path.parent.resolve().relative_to("/") / path.name
        if os.path.lexists(path) and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)


def prune(root: Path) -> None:
    library = root / "usr/lib/python3.11"
    for pattern in (*_UNUSED, *(f"lib-dynload/{name}" for name in _UNUSED_MODULES)):
        for path in library.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def elf_files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def strip(venv: Path) -> None:
    for path in elf_files(venv):
        subprocess.run(["strip", "--strip-unneeded", path], check=True)


def needed(root: Path) -> set[str]:
    """Paths, in the build stage, of libraries that something in `root` is linked to and `root` does not have."""
    missing = set()
    for path in elf_files(root):
        found = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)
        for line in found.stdout.splitlines():
            name, _, where = line.strip().partition(" => ")
            if where == "not found":
                sys.exit(f"rootfs: {path} needs {name}, which is not here either")
            library = where.rpartition(" (")[0] if where else name.rpartition(" (")[0]
            if not library.startswith("/"):  # the kernel's vdso, "statically linked"
                continue
            # A wheel brings libraries beside its modules; they resolve to the copy itself.
            if not library.startswith(str(root)) and not (root / Path(library).resolve().relative_to("/")).exists():
                missing.add(library)
    return missing


def owners(libraries: set[str]) -> set[str]:
    packages = set()
    for library in libraries:
        # dpkg knows a file by the path that its package has, which may lead through /lib, merged or not.
        real = str(Path(library).resolve())
        for path in (real, real.removeprefix("/usr")):
            found = subprocess.run(["dpkg-query", "-S", path], capture_output=True, text=True, check=False)
            if found.returncode == 0:
                packages.add(found.stdout.partition(":")[0])
                break
        else:
            sys.exit(f"rootfs: {library} belongs to no package")
    return packages


def write_etc(root: Path) -> None:
    etc = root / "etc"
    (etc / "passwd").write_text("root:x:0:0:root:/:/none\nnobody:x:65534:65534:nobody:/:/none\n")
    (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (etc / "nsswitch.conf").write_text(
        "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"
    )
    # The one file that ca-certificates makes at its installation, at the two places where OpenSSL looks.
    bundle = Path("etc/ssl/certs/ca-certificates.crt")
    (root / bundle).parent.mkdir(parents=True)
    shutil.copy2(Path("/", bundle), root / bundle)
    (root / "usr/lib/ssl").mkdir(parents=True, exist_ok=True)
    (root / "usr/lib/ssl/cert.pem").symlink_to(Path("/", bundle))
    (root / "tmp").mkdir(mode=0o1777)
    (root / "tmp").chmod(0o1777)


def compile_all(root: Path, venv: Path) -> None:
    """Bytecode that is never checked against its source: the image does not change, and nobody could write it."""
    for folder in ("usr/lib/python3.11", venv.relative_to("/")):
        command = ["python3.11", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
        subprocess.run([*command, "-s", root, "-p", "/", root / folder], check=True)


def describe(root: Path, venv: Path, packages: list[str]) -> None:
    """What the image is made of, for scanners: each Debian package's entry, and a CycloneDX document of everything."""
    status = root / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for package in (*packages, "ca-certificates"):
        text = subprocess.run(["dpkg-query", "-s", package], capture_output=True, text=True, check=True).stdout
        (status / package).write_text(text)
    share = root / "usr/share/ossensor"
    share.mkdir(parents=True)
    (share / "sbom.cdx.json").write_text(sbom.document(sorted(status.iterdir()), venv))


def check(root: Path, venv: Path) -> None:
    """The program starts in there, with nothing else around it, and no shell is there that somebody could start."""
    subprocess.run(["chroot", root, venv / "bin/ossensor", "--version"], check=True)
    modules = "import ssl, sqlite3, ctypes, lzma, bz2, zlib, uuid, decimal, hashlib, pcap, ossensor.supervisor"
    subprocess.run(["chroot", root, venv / "bin/python", "-c", modules], check=True)
    if shells := [name for name in ("sh", "bash", "dash", "busybox") if (root / "usr/bin" / name).exists()]:
        sys.exit(f"rootfs: {shells} came in")


def output(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


if __name__ == "__main__":
    main()
