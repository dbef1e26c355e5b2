"""Makes a dma-buf of shared memory, which drivers take that refuse mapped memory with a file behind it.

The kernel's udmabuf driver does it, without copying: the dma-buf has the memory's own pages.
https://docs.kernel.org/userspace-api/dma-buf-heaps.html, linux/udmabuf.h
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

UDMABUF = Path("/dev/udmabuf")
CREATE = 0x40187542  # UDMABUF_CREATE, _IOW('u', 0x42, struct udmabuf_create)
REQUEST = struct.Struct("=IIQQ")  # memfd, flags, offset, size
CLOEXEC = 1  # UDMABUF_FLAGS_CLOEXEC


class DmaBufError(RuntimeError):
    """The kernel makes no dma-buf of this memory; one sentence that says why."""


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
