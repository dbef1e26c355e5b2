"""The bytes with which a peer of ZeroMQ begins, as an attacker makes them (rfc.zeromq.org/spec/37)."""

import struct


def greeting(mechanism: bytes, as_server: bool = False) -> bytes:
    """How ZMTP 3.1 begins."""
    return b"\xff" + bytes(8) + b"\x7f\x03\x01" + mechanism.ljust(20, b"\0") + bytes([as_server]) + bytes(31)


def frame(flags: int, num_bytes: int) -> bytes:
    """The beginning of a long frame that announces so many bytes. Flags: 1 for more to come, 4 a command."""
    return bytes([flags | 2]) + struct.pack(">Q", num_bytes)


def command(name: bytes, body: bytes) -> bytes:
    content = bytes([len(name)]) + name + body
    return b"\x04" + bytes([len(content)]) + content


def ready(kind: bytes) -> bytes:
    """The only command of a handshake without security."""
    return command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind)
