"""QR codes that look like ones: the text that a phone would scan, and a picture of it in PNG."""

import base64
import hashlib
import struct
import zlib

_SIDE = 33  # modules
_SCALE = 8  # pixels a module


def qr_text(session: str, number: int) -> str:
    """The code that *session* shows as its *number*-th."""
    parts = [hashlib.sha256(f"{session} {number} {part}".encode()).digest() for part in range(3)]
    return "2@" + ",".join(base64.b64encode(part).decode() for part in parts)


def qr_png(text: str) -> bytes:
    """A picture that is another one for another *text*. No phone can read it."""
    bits = hashlib.shake_256(text.encode()).digest(_SIDE * _SIDE)
    rows = [bits[start : start + _SIDE] for start in range(0, _SIDE * _SIDE, _SIDE)]
    lines = [b"\x00" + b"".join((b"\xff" if bit & 1 else b"\x00") * _SCALE for bit in row) for row in rows]
    pixels = b"".join(line * _SCALE for line in lines)
    size = _SIDE * _SCALE
    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)  # eight bits of grey
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(pixels)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
