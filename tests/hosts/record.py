"""Records what passes a port of the switch: `python record.py PORT FRAMES STREAMS` in the switch's namespace.

At the end of its input FRAMES has every frame, and STREAMS what each end of the TCP connections that began
since then sent. They are files of records: a length (4 bytes) and so many bytes. Those of STREAMS begin with
the address and the port (4 and 2 bytes) of the other end. Imports nothing of ours.
"""

import select
import socket
import struct
import sys
from pathlib import Path

ALL_PROTOCOLS = 3
IPV4, TCP = 0x0800, 6
ETHERNET_BYTES = 14
SYN = 2
MAX_FRAME_BYTES = 1 << 17
RECORD = struct.Struct(">I")


class Stream:
    """The bytes that one end of a connection sends, put in order."""

    def __init__(self, target: bytes, first: int) -> None:
        self.target, self.first = target, first  # address and port; the sequence number of the first byte
        self.bytes = bytearray()

    def take(self, sequence: int, content: bytes) -> None:
        start = (sequence - self.first) % (1 << 32)
        if start <= len(self.bytes) < start + len(content):  # neither lost before nor known already
            self.bytes[start:] = content


class Recorder:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.streams: dict[bytes, Stream] = {}  # by addresses and ports

    def take(self, frame: bytes) -> None:
        self.frames.append(frame)
        if struct.unpack_from(">H", frame, 12)[0] != IPV4 or frame[ETHERNET_BYTES + 9] != TCP:
            return
        header_bytes = 4 * (frame[ETHERNET_BYTES] & 15)
        end = ETHERNET_BYTES + struct.unpack_from(">H", frame, ETHERNET_BYTES + 2)[0]
        segment = frame[ETHERNET_BYTES + header_bytes : end]
        key = frame[ETHERNET_BYTES + 12 : ETHERNET_BYTES + 20] + segment[:4]
        sequence, flags = struct.unpack_from(">I", segment, 4)[0], segment[13]
        if flags & SYN:
            target = frame[ETHERNET_BYTES + 16 : ETHERNET_BYTES + 20] + segment[2:4]
            self.streams[key] = Stream(target, (sequence + 1) % (1 << 32))
        elif key in self.streams:
            self.streams[key].take(sequence, segment[4 * (segment[12] >> 4) :])


def write(path: str, records: list[bytes]) -> None:
    Path(path).write_bytes(b"".join(RECORD.pack(len(record)) + record for record in records))


def main(port: str, frames: str, streams: str) -> None:
    recorder = Recorder()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as listening:
        listening.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        listening.bind((port, ALL_PROTOCOLS))
        print("recording", flush=True)
        while sys.stdin not in select.select([sys.stdin, listening], [], [])[0]:
            recorder.take(listening.recv(MAX_FRAME_BYTES))
    write(frames, recorder.frames)
    write(streams, [stream.target + bytes(stream.bytes) for stream in recorder.streams.values()])


if __name__ == "__main__":
    main(*sys.argv[1:])
