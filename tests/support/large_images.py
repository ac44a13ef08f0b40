"""Images too large to stay in a body, as far as their heads and ends are looked at."""

from random import Random

from app.protocol.inline_images import placeholder_png

NOISE = Random(7).randbytes(150_000)


def png(noise: bytes = NOISE) -> bytes:
    small = placeholder_png(99)
    return small[:-12] + len(noise).to_bytes(4, "big") + b"tEXt" + noise + b"\0\0\0\0" + small[-12:]


def jpeg() -> bytes:
    return b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0" + NOISE + b"\xff\xd9"


def webp() -> bytes:
    return b"RIFF" + (len(NOISE) + 12).to_bytes(4, "little") + b"WEBPVP8L" + len(NOISE).to_bytes(4, "little") + NOISE
