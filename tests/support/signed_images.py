"""Image files with a C2PA manifest in the place that each format has for it. Its contents are no valid manifest."""

from tests.support.sample_images import chunk

#: The start of the JUMBF box of a manifest, as C2PA defines it.
MANIFEST = b"\0\0\0\x26jumb\0\0\0\x1ejumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0"


def signed(data: bytes) -> bytes:
    """Return the file with a manifest: a PNG, JPEG, WebP, GIF or AVIF that has none."""
    if data.startswith(b"\x89PNG"):
        return data[:33] + chunk(b"caBX", MANIFEST) + data[33:]
    if data.startswith(b"\xff\xd8"):
        payload = b"JP\0\1\0\0\0\1" + MANIFEST
        return data[:2] + b"\xff\xeb" + (len(payload) + 2).to_bytes(2, "big") + payload + data[2:]
    if data.startswith(b"RIFF"):
        grown = data + b"C2PA" + len(MANIFEST).to_bytes(4, "little") + MANIFEST
        return b"RIFF" + (len(grown) - 8).to_bytes(4, "little") + grown[8:]
    if data.startswith(b"GIF"):
        return data[:-1] + b"\x21\xff\x0bC2PA_GIF\1\0\0" + bytes([len(MANIFEST)]) + MANIFEST + b"\0;"
    box = b"uuid" + bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + b"\0\0\0\0manifest\0" + MANIFEST
    return data + (len(box) + 4).to_bytes(4, "big") + box
