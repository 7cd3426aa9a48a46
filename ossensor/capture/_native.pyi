import mmap

def copy(
    ring: mmap.mmap | bytes | bytearray | memoryview,
    block_bytes: int,
    sequence: int,
    slot: memoryview | bytearray,
    used: int,
    room: int,
    snaplen: int,
    ethernet: bool,
    complete_checksums: bool,
) -> tuple[int, int, int, int, int, bool]: ...
def ready(ring: mmap.mmap | bytearray | memoryview, block_bytes: int, sequence: int) -> bool: ...
def gather(
    ring: mmap.mmap | bytearray | memoryview, block_bytes: int, sequence: int, nap_s: float, naps: int
) -> int: ...
def release(ring: mmap.mmap | bytearray | memoryview, block_bytes: int, sequence: int, count: int) -> None: ...
def release_read(ring: mmap.mmap | bytearray | memoryview, block_bytes: int, sequence: int) -> int: ...
def unread(ring: mmap.mmap | bytearray | memoryview, block_bytes: int, sequence: int) -> int: ...
