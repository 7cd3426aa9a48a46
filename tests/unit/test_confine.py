"""What a confined child can still do: every forbidden call is made in a real child, under the real filter."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import re
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ossensor.confine import landlock
from ossensor.confine.cell import Cell
from ossensor.confine.policy import Mode, Role, program
from ossensor.confine.seccomp import mode_here, name_of
from ossensor.confine.syscalls import ARCHITECTURES
from ossensor.workers import privileges
from ossensor.workers.child import Heartbeat

here = pytest.mark.skipif(platform.machine() != "x86_64", reason="filters kill where they were tested: x86_64")
ALL = list(Role)
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def heartbeat() -> Iterator[Heartbeat]:
    word = Heartbeat()
    yield word
    word.close()


def confined(
    heartbeat: Heartbeat,
    role: Role,
    work: Callable[[], object],
    *,
    mode: Mode = "kill",
    folder: str = "",
    mute: tuple[int, ...] = (),
) -> int:
    """How a child ends that does this in its cell: 0, an errno, or a signal as a negative number."""
    pid = os.fork()
    if not pid:
        code = 255
        try:
            privileges.drop_everything(os.getuid(), os.getgid())
            Cell(role, mode, folder, mute).close(heartbeat.violation)
            work()
            code = 0
        except OSError as e:
            code = e.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def call(name: str, *arguments: int) -> Callable[[], None]:
    """A bare system call; an error that the kernel itself gives is raised."""

    def work() -> None:
        number = ARCHITECTURES[platform.machine()].numbers[name]
        if _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in (*arguments, 0, 0, 0, 0, 0, 0)[:6])) == -1:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return work


FORBIDDEN = """
    execve execveat fork vfork ptrace process_vm_readv process_vm_writev process_madvise pidfd_open pidfd_getfd
    pidfd_send_signal kill tkill rt_sigqueueinfo mount umount2 fsopen move_mount open_tree pivot_root chroot
    unshare setns bpf io_uring_setup io_uring_enter io_uring_register perf_event_open userfaultfd init_module
    finit_module kexec_load keyctl add_key request_key setuid setgid setresuid setgroups capset seccomp
    personality memfd_create memfd_secret open_by_handle_at name_to_handle_at chmod fchmod chown mknod symlink
    link mkdir truncate setxattr quotactl reboot swapon iopl ioperm modify_ldt clock_settime settimeofday
    sethostname acct syslog prlimit64 setrlimit splice vmsplice landlock_create_ruleset mlockall shmget msgget
    listen sched_setscheduler io_setup inotify_init1 timerfd_create
"""


@here
@pytest.mark.parametrize("role", ALL)
@pytest.mark.parametrize("name", FORBIDDEN.split())
def test_a_forbidden_call_ends_the_process_and_leaves_its_name(heartbeat: Heartbeat, role: Role, name: str) -> None:
    assert confined(heartbeat, role, call(name)) == -signal.SIGSYS
    assert name_of(heartbeat.maybe_violation or 0) == name


THREAD, CHILD = 0x00010000, signal.SIGCHLD
# What is forbidden by its arguments only: everybody, then who may.
BY_ARGUMENT = [
    pytest.param("clone", (CHILD,), set(), id="a process"),
    pytest.param("clone", (0x7E020000,), set(), id="namespaces"),
    pytest.param("socket", (socket.AF_PACKET, socket.SOCK_RAW, 0), set(), id="packet socket"),
    pytest.param("socket", (socket.AF_INET, socket.SOCK_STREAM, 0), {Role.UPLOAD}, id="connection"),
    pytest.param("socket", (socket.AF_UNIX, socket.SOCK_DGRAM, 0), {Role.UPLOAD, Role.ENFORCE}, id="local socket"),
    pytest.param("socket", (socket.AF_VSOCK, socket.SOCK_STREAM, 0), set(), id="vsock"),
    pytest.param("socket", (socket.AF_ALG, socket.SOCK_SEQPACKET, 0), set(), id="kernel crypto"),
    pytest.param("socket", (socket.AF_INET, 10, 0), set(), id="SOCK_PACKET"),
    pytest.param("setsockopt", (-1, socket.SOL_SOCKET, 26), {Role.UPLOAD, Role.ENFORCE}, id="another filter"),
    pytest.param("ioctl", (0, 0x5412), set(), id="TIOCSTI"),
    pytest.param("prctl", (privileges._PR_SET_DUMPABLE, 1), set(), id="dumpable again"),
    pytest.param("tgkill", (1, 1, 0), set(), id="a signal to another"),
    pytest.param("rt_sigaction", (signal.SIGSYS,), set(), id="survive a violation"),
    pytest.param("mprotect", (0, 0, mmap.PROT_READ | mmap.PROT_EXEC), set(), id="data becomes code"),
    pytest.param(
        "mmap", (0, 4096, mmap.PROT_EXEC, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0), set(), id="memory for code"
    ),
]


@here
@pytest.mark.parametrize("role", ALL)
@pytest.mark.parametrize("name,arguments,allowed", BY_ARGUMENT)
def test_what_an_argument_forbids(
    heartbeat: Heartbeat, role: Role, name: str, arguments: tuple[int, ...], allowed: set[Role]
) -> None:
    ended = confined(heartbeat, role, call(name, *arguments))

    assert (ended != -signal.SIGSYS) is (role in allowed)


MUTE_ONES = [
    pytest.param(lambda mute: os.write(mute, b"x"), id="write"),
    pytest.param(lambda mute: os.writev(mute, [b"x"]), id="writev"),
    pytest.param(lambda mute: call("sendto", mute, 0, 0, 0)(), id="sendto"),
    pytest.param(lambda mute: call("sendmsg", mute, 0, 0)(), id="sendmsg"),
    pytest.param(lambda mute: call("sendmmsg", mute, 0, 0)(), id="sendmmsg"),
    pytest.param(lambda mute: call("pwrite64", mute, 0, 0)(), id="pwrite64"),
    pytest.param(lambda mute: call("sendfile", mute, 0, 0)(), id="sendfile"),
    pytest.param(os.dup, id="another number, fcntl"),
    pytest.param(lambda mute: call("dup", mute)(), id="another number"),
    pytest.param(lambda mute: call("dup3", mute, 0, 0)(), id="another's number"),
    pytest.param(lambda mute: call("recvmsg", mute, 0, 0)(), id="another number, received"),
    pytest.param(lambda mute: call("setsockopt", mute, 0, 0)(), id="a ring to send from"),
]


@here
@pytest.mark.parametrize("work", MUTE_ONES)
def test_a_capture_worker_sends_nothing_by_the_socket_that_it_reads(
    heartbeat: Heartbeat, work: Callable[[int], object]
) -> None:
    """A packet socket sends whatever is written to it, and asks for no capability then."""
    ours, other = socket.socketpair()
    with ours, other:
        assert confined(heartbeat, Role.CAPTURE, lambda: work(ours.fileno()), mute=(ours.fileno(),)) == -signal.SIGSYS
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)


@here
def test_what_it_has_to_say_goes_by_the_others(heartbeat: Heartbeat) -> None:
    ours, other = socket.socketpair()

    def work() -> None:
        os.write(other.fileno(), b"x")
        assert ours.recv(1) == b"x"

    with ours, other:
        assert confined(heartbeat, Role.CAPTURE, work, mute=(ours.fileno(),)) == 0


@here
@pytest.mark.parametrize("role", ALL)
def test_the_other_tables_of_numbers_are_closed(heartbeat: Heartbeat, role: Role) -> None:
    def x32_getpid() -> None:
        _libc.syscall(ctypes.c_long(0x40000000 | ARCHITECTURES["x86_64"].numbers["getpid"]))

    assert confined(heartbeat, role, x32_getpid) == -signal.SIGSYS


@here
@pytest.mark.parametrize("role", ALL)
def test_what_came_after_the_table_is_not_there(heartbeat: Heartbeat, role: Role) -> None:
    def newer() -> None:
        assert _libc.syscall(ctypes.c_long(ARCHITECTURES["x86_64"].newest + 1)) == -1
        raise OSError(ctypes.get_errno(), "")

    assert confined(heartbeat, role, newer) == errno.ENOSYS


@here
def test_a_thread_that_starts_later_is_confined_and_takes_the_process_along(heartbeat: Heartbeat) -> None:
    def work() -> None:
        thread = threading.Thread(target=call("ptrace"))
        thread.start()
        thread.join()

    assert confined(heartbeat, Role.UPLOAD, work) == -signal.SIGSYS
    assert name_of(heartbeat.maybe_violation or 0) == "ptrace"


@here
@pytest.mark.parametrize("role", [Role.CAPTURE, Role.ENFORCE])
def test_who_needs_no_thread_starts_none(heartbeat: Heartbeat, role: Role) -> None:
    assert confined(heartbeat, role, lambda: threading.Thread(target=int).start()) == -signal.SIGSYS


@here
@pytest.mark.parametrize("mode", ["log", None])
def test_without_kill_nobody_is_ended_and_no_file_is_closed(heartbeat: Heartbeat, mode: Mode) -> None:
    def work() -> None:
        assert Path("/proc/self/stat").read_bytes()
        call("personality", 0xFFFFFFFF)()

    assert confined(heartbeat, Role.CAPTURE, work, mode=mode) == 0
    assert heartbeat.maybe_violation is None


@here
@pytest.mark.parametrize("role", ALL)
def test_what_everybody_does_goes_on(heartbeat: Heartbeat, role: Role) -> None:
    def work() -> None:
        read, write = os.pipe() if role is Role.UPLOAD else pipe
        os.write(write, b"x")
        assert select.select([read], [], [], 0) if role is Role.UPLOAD else select.poll().poll(0) == []
        assert os.read(read, 1) == b"x"
        assert os.fstat(read).st_size == 0
        assert len(bytearray(1 << 24)) == 1 << 24
        assert len(os.urandom(8)) == 8

    pipe = os.pipe()
    assert confined(heartbeat, role, work) == 0
    for fd in pipe:
        os.close(fd)


def test_a_setting_means_on_a_machine_what_was_tested_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        found[machine] = [mode_here(wanted) for wanted in ("auto", "kill", "log", "off")]

    assert found == {"x86_64": ["kill", "kill", "log", None], "aarch64": ["log", "kill", "log", None]}


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize("role", ALL)
@pytest.mark.parametrize("mode", ["kill", "log"])
def test_every_filter_can_be_assembled(machine: str, role: Role, mode: Mode) -> None:
    text = program(role, ARCHITECTURES[machine], mode, 4711)

    assert len(text) % 8 == 0
    assert 80 < len(text) // 8 < 256


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_a_mute_descriptor_is_compared_in_each_of_the_calls_that_write(machine: str) -> None:
    text = program(Role.CAPTURE, ARCHITECTURES[machine], "kill", 1, (4711,))
    compared = [value for _, _, _, value in struct.iter_unpack("=HBBI", text)].count(4711)

    assert compared == len(("write", "writev", "sendto"))


_ASKED_FOR_BY_ARM64 = ("RENAMEAT", "NEW_STAT", "SET_GET_RLIMIT", "TIME32_SYSCALLS", "SYS_CLONE3", "MEMFD_SECRET")
HEADERS = {
    "x86_64": ("#include <asm/unistd_64.h>",),
    # arch/arm64/include/uapi/asm/unistd.h
    "aarch64": (
        "#define __BITS_PER_LONG 64",
        *(f"#define __ARCH_WANT_{name}" for name in _ASKED_FOR_BY_ARM64),
        "#include <asm-generic/unistd.h>",
    ),
}


@pytest.mark.parametrize("machine", HEADERS)
@here
def test_the_tables_are_those_of_the_kernels_headers(machine: str) -> None:
    run = ["gcc", "-E", "-dM", "-"]
    said = subprocess.run(run, input="\n".join(HEADERS[machine]), capture_output=True, text=True, check=True).stdout
    raw = {name: value.strip("() ") for name, value in re.findall(r"#define (__NR\w*) (.+)", said)}

    def number(value: str) -> int:
        return int(value) if value.isdigit() else number(raw[value])

    stated = {n.removeprefix("__NR_"): number(v) for n, v in raw.items() if n.startswith("__NR_") and "+" not in v}
    table = ARCHITECTURES[machine].numbers
    newer = {name for name, value in stated.items() if value > ARCHITECTURES[machine].newest}
    assert {n: v for n, v in stated.items() if n not in newer | {"syscalls", "arch_specific_syscall"}} == table


# -- files ------------------------------------------------------------------------------------------------------------

with_landlock = pytest.mark.skipif(landlock.version() == 0, reason="this kernel has no Landlock")


@here
@with_landlock
def test_the_uploader_writes_its_folder_and_no_other(heartbeat: Heartbeat, tmp_path: Path) -> None:
    spool, other = tmp_path / "spool", tmp_path / "other"
    for folder in (spool, other):
        folder.mkdir()
        (folder / "old").write_text("old")

    def inside() -> None:
        (spool / "part").write_text("new")
        (spool / "part").rename(spool / "whole")
        (spool / "old").unlink()
        assert [path.name for path in spool.iterdir()] == ["whole"]

    attempts: dict[str, Callable[[], object]] = {
        "inside": inside,
        "read": (other / "old").read_text,
        "list": lambda: list(other.iterdir()),
        "make": lambda: (other / "new").write_text("new"),
        "write": lambda: os.open(other / "old", os.O_WRONLY),
        "empty": lambda: os.truncate(os.open(other / "old", os.O_RDONLY), 0),
        "remove": (other / "old").unlink,
        "move": lambda: (spool / "whole").rename(other / "whole"),
        "the parent's memory": lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
        "names": lambda: socket.getaddrinfo("localhost", 443),
        "resolv.conf": Path("/etc/resolv.conf").read_bytes,
        "hosts": lambda: os.open("/etc/hosts", os.O_WRONLY),
    }
    found = {what: confined(heartbeat, Role.UPLOAD, work, folder=str(spool)) for what, work in attempts.items()}

    fine = {"inside", "names", "resolv.conf"}
    refused = {what for what, code in found.items() if code == errno.EACCES}
    assert found == {what: 0 if what in fine else found[what] for what in found}
    assert refused | {"move"} == set(found) - fine
    assert found["move"] in {errno.EACCES, errno.EXDEV}
    assert (other / "old").read_text() == "old"


@here
@with_landlock
def test_the_uploader_reads_the_certificates_where_the_environment_says_that_they_are(
    heartbeat: Heartbeat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "5ed36f99.0").touch()
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))

    assert confined(heartbeat, Role.UPLOAD, (tmp_path / "5ed36f99.0").read_bytes) == 0
    assert confined(heartbeat, Role.ENFORCE, (tmp_path / "5ed36f99.0").read_bytes) == errno.EACCES


@here
@pytest.mark.parametrize("path", ["/etc/hosts", "/proc/self/stat", "/usr/lib"])
def test_a_capture_worker_opens_nothing_at_all(heartbeat: Heartbeat, path: str) -> None:
    assert confined(heartbeat, Role.CAPTURE, lambda: os.open(path, os.O_RDONLY)) == errno.EACCES
    assert confined(heartbeat, Role.CAPTURE, Path(path).stat) == errno.EACCES


@here
@with_landlock
def test_the_enforcer_reads_what_names_the_name_servers_and_writes_nothing(heartbeat: Heartbeat) -> None:
    assert confined(heartbeat, Role.ENFORCE, Path("/etc/resolv.conf").read_bytes) == 0
    assert confined(heartbeat, Role.ENFORCE, Path("/proc/self/stat").read_bytes) == errno.EACCES
    assert confined(heartbeat, Role.ENFORCE, lambda: os.open("/etc/hosts", os.O_WRONLY)) == -signal.SIGSYS


@here
def test_a_kernel_without_landlock_leaves_the_filter(heartbeat: Heartbeat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)

    assert confined(heartbeat, Role.UPLOAD, Path("/proc/self/stat").read_bytes) == 0
    assert confined(heartbeat, Role.UPLOAD, call("ptrace")) == -signal.SIGSYS


@here
@with_landlock
@pytest.mark.parametrize("role", [Role.UPLOAD, Role.ENFORCE])
def test_a_module_that_is_loaded_when_it_is_first_wanted_is_there(heartbeat: Heartbeat, role: Role) -> None:
    module = Path(privileges.__file__).with_name("metrics.py")

    assert confined(heartbeat, role, module.read_bytes) == 0
