"""The fastest speed that a network card has, as ethtool tells it (linux/ethtool.h, ETHTOOL_GLINKSETTINGS)."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL, GLINKSETTINGS = 0x8946, 0x4C
HEADER = struct.Struct("=II7Bb4B7I")  # struct ethtool_link_settings; the masks of modes follow
NUM_WORDS_FIELD = 9  # of the header, link_mode_masks_nwords
MAX_WORDS = 127
# Mbit/s by the bits of enum ethtool_link_mode_bit_indices, as far as cards in homes and labs have them.
SPEEDS = {
    10: (0, 1),
    100: (2, 3),
    1000: (4, 5, 17, 41),
    2500: (15, 47),
    5000: (48,),
    10000: (12, 18, 19, 20, 42, 43, 44, 45, 46),
    25000: (31, 32, 33),
    40000: (23, 24, 25, 26),
    50000: (34, 35, 40, 52, 53, 54, 55, 56),
    100000: (36, 37, 38, 39, 57, 58, 59, 60, 61),
}


def fastest_mode(interface: str) -> int:
    """Returns Mbit/s; 0 where that is not known, as of virtual interfaces and wireless ones."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            asked = _ask(probe, interface, 0)
            num_words = -HEADER.unpack_from(asked)[NUM_WORDS_FIELD]
            if not 0 < num_words <= MAX_WORDS:
                return 0
            words = _ask(probe, interface, num_words)
    except (OSError, UnicodeError, struct.error):
        return 0
    supported = int.from_bytes(words[HEADER.size : HEADER.size + 4 * num_words], "little")
    return max(
        (speed for speed, bits in SPEEDS.items() if any(supported >> bit & 1 for bit in bits)), default=0
    )


def _ask(probe: socket.socket, interface: str, num_words: int) -> bytes:
    settings = array.array("B", bytes(HEADER.size + 3 * 4 * MAX_WORDS))
    fields = [0] * 21
    fields[0], fields[NUM_WORDS_FIELD] = GLINKSETTINGS, num_words
    HEADER.pack_into(settings, 0, *fields)
    request = struct.pack("16sP", interface.encode(), settings.buffer_info()[0])
    fcntl.ioctl(probe.fileno(), SIOCETHTOOL, request.ljust(40, b"\0"))
    return settings.tobytes()
