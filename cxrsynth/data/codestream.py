"""The size that a compressed image claims for itself, read before any decoder believes it."""

import struct

# start-of-frame markers of JPEG and JPEG-LS; C4, C8 and CC are none
FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
J2K_START = b"\xff\x4f\xff\x51"


def codestream_shape(data: bytes) -> tuple[int, int] | None:
    """Rows and columns in the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None if there is no such header."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg_shape(data)
        start = data.find(J2K_START)  # JP2 files have boxes before it
        if start < 0:
            return None
        width, height, left, top = struct.unpack_from(">IIII", data, start + 8)
        return height - top, width - left
    except struct.error:  # it ends within the header
        return None


def _jpeg_shape(data: bytes) -> tuple[int, int] | None:
    position = 2
    while data[position : position + 1] == b"\xff":
        marker, length = struct.unpack_from(">xBH", data, position)
        if marker in FRAMES:
            rows, columns = struct.unpack_from(">HH", data, position + 5)
            return rows, columns
        position += 2 + length
    return None
