"""The orientation in EXIF data: read, and set to upright in place."""

import struct

#: What EXIF starts with in JPEG; WebP and AVIF leave it out.
MARK = b"Exif\0\0"
_ORIENTATION = 0x0112


def turn_up(exif: bytes) -> tuple[bytes, int]:
    """EXIF that says orientation 1, with MARK in front, and the orientation (1 to 8) that it said before.

    Patched and not written anew: maker notes hold offsets. Nothing and 1 where there is no EXIF or none that can be
    read: browsers show such pictures as they lie.
    """
    tiff = bytearray(exif.removeprefix(MARK))
    try:
        order = {b"II": "<", b"MM": ">"}[bytes(tiff[:2])]
        (directory,) = struct.unpack_from(order + "4xI", tiff)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, orientation = struct.unpack_from(order + "H6xH", tiff, entry)
            if tag == _ORIENTATION:
                struct.pack_into(order + "H", tiff, entry + 8, 1)
                return MARK + tiff, orientation if 1 <= orientation <= 8 else 1
    except (KeyError, struct.error):
        return b"", 1
    return MARK + tiff, 1
