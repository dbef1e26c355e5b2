"""Makes a dma-buf of shared memory, which drivers take that refuse mapped memory with a file behind it; and
maps dma-bufs that drivers made.

The kernel's udmabuf driver makes one without copying: the dma-buf has the memory's own pages.
https://docs.kernel.org/userspace-api/dma-buf-heaps.html, linux/udmabuf.h, linux/dma-buf.h
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

UDMABUF = Path("/dev/udmabuf")
CREATE = 0x40187542  # UDMABUF_CREATE, _IOW('u', 0x42, struct udmabuf_create)
REQUEST = struct.Struct("=IIQQ")  # memfd, flags, offset, size
CLOEXEC = 1  # UDMABUF_FLAGS_CLOEXEC
SYNC = 0x40086200  # DMA_BUF_IOCTL_SYNC, _IOW('b', 0, struct dma_buf_sync)
SYNC_REQUEST = struct.Struct("=Q")  # flags
READ_WRITE, END = 3, 4  # DMA_BUF_SYNC_RW, DMA_BUF_SYNC_END; begin is 0
LINK = "/dmabuf:"  # that a dma-buf's descriptor shows in /proc, with a name behind it
MAX_ROUNDING = 2 << 20  # bytes that a driver may make memory longer than it was asked for: its largest page


class DmaBufError(RuntimeError):
    """The kernel makes no dma-buf of this memory, or maps none; one sentence that says why."""


def dma_buf_of(
    memfd: int,
    offset: int,
    num_bytes: int,
    device: Path = UDMABUF,
    ioctl: Callable[..., int] = fcntl.ioctl,
) -> int:
    """Returns a descriptor, the caller's to close, of a dma-buf of some whole pages of a memfd.

    The memfd is sealed against shrinking, and not against writing. Raises DmaBufError.
    """
    try:
        driver = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DmaBufError(f"{device} can't be opened: {error.strerror}") from error
    try:
        return ioctl(driver, CREATE, bytearray(REQUEST.pack(memfd, CLOEXEC, offset, num_bytes)), True)
    except OSError as error:
        raise DmaBufError(f"{device} makes no dma-buf of {num_bytes} bytes: {error.strerror}") from error
    finally:
        os.close(driver)


def map_dma_buf(descriptor: int, num_bytes: int) -> mmap.mmap:
    """Maps the first bytes of a dma-buf that another process may have made, whose descriptor stays the
    caller's.

    Raises DmaBufError for what is no dma-buf, or has another size, or can't be mapped.
    """
    try:
        link = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if not is_dma_buf(link):
            raise DmaBufError(f"what came as a dma-buf is {link:.40}")
        size = os.lseek(descriptor, 0, os.SEEK_END)
        os.lseek(descriptor, 0, os.SEEK_SET)
        if not num_bytes <= size <= num_bytes + MAX_ROUNDING:
            raise DmaBufError(f"the dma-buf has {size} bytes, not {num_bytes}")
        return mmap.mmap(descriptor, num_bytes)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DmaBufError(f"a dma-buf of {num_bytes} bytes can't be mapped: {reason}") from error


def is_dma_buf(link: str) -> bool:
    """Tells if a descriptor's link in /proc is that of a dma-buf."""
    return link.startswith(LINK)


def fill_with_zeros(descriptor: int, memory: mmap.mmap, ioctl: Callable[..., int] = fcntl.ioctl) -> None:
    """Writes zeros to a mapped dma-buf such that all devices see them. Raises DmaBufError.

    Later on nobody tells the kernel of what hosts read and write: the memory is coherent, and to tell would
    be to wait for all that devices do with it, among others for what waits for this very host.
    """
    try:
        ioctl(descriptor, SYNC, SYNC_REQUEST.pack(READ_WRITE))
        np.frombuffer(memory, np.uint8)[:] = 0
        ioctl(descriptor, SYNC, SYNC_REQUEST.pack(READ_WRITE | END))
    except OSError as error:
        raise DmaBufError(f"the kernel lets no host write to a dma-buf: {error.strerror}") from error
