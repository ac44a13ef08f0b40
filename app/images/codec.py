"""Decode and encode images, with their color profile, metadata and text.

Everything here runs in the decoder's processes. Decoded images are upright, with 8 bits per channel.
"""

import errno
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Any, Protocol, TypeVar, cast

from PIL import (  # the plugins register themselves; without these imports the first image would load all forty
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageCms,
    JpegImagePlugin,
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)
from PIL.ImageFile import ImageFile

from app.errors import ApiError, ImageUnavailable, SpoolFull, UserError

#: The formats that are decoded, recognized by their bytes, not by a name. A phone's MPO opens as JPEG. HEIC needs a
#: patented decoder that Pillow does not include.
READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP")

#: Honest progressive JPEGs have about 10 scans. Each goes through all pixels again, even if it has a single byte.
MAX_SCANS = 100

#: 20 scans of the largest image, which take a second; a smaller image may have more.
MAX_SCANNED_PIXELS = 20 << 26

#: Pixels that a tile of a TIFF may have, unless the image has a quarter as many. A tile is decoded whole, even if the
#: image is a corner of it.
MAX_TILE_PIXELS = 1 << 22

#: What Pillow raises for damaged files, found by mutating files of all `READABLE_FORMATS`.
DECODE_ERRORS = (
    OSError,  # truncated, not identified, rejected by a decoder
    SyntaxError,  # a broken header; every broken AVIF
    ValueError,  # sizes, modes and chunks that contradict each other
    TypeError,  # TIFF with fractions as offsets
    RuntimeError,  # AVIF
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # when warnings are errors
)


class TooComplexError(ValueError):
    """The header demands more than is decoded, whether the file is damaged or not."""


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Upright `pixels` in mode L, LA, RGB or RGBA, and the other contents of the file, each empty if it had none.

    Attributes:
        exif: With `EXIF_HEADER` in front, and orientation 1.
        text: The text chunks of a PNG by keyword.
    """

    pixels: Image.Image
    profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    text: Mapping[str, str] = field(default_factory=dict)

    def scaled(self, size: tuple[int, int]) -> "DecodedImage":
        """Return the image with exactly this size in pixels."""
        if self.pixels.size == size:
            return self
        return replace(self, pixels=self.pixels.resize(size, Image.Resampling.LANCZOS))


class Source(Protocol):
    """A file that is read at any position: a blob, or what another process has handed over."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, size: int, /) -> bytes:
        """Return up to `size` bytes from `offset`, fewer only at the end."""
        ...


class Sink(Protocol):
    """A file that is being written."""

    @property
    def size(self) -> int: ...

    def write(self, data: bytes | memoryview, /) -> object:
        """Append all of `data`."""
        ...

    def close(self) -> object:
        """Discard what was written."""
        ...


_S = TypeVar("_S", bound=Sink)


# Errors

#: A `detail` is cut here, because Pillow quotes the contents of files.
_MAX_DETAIL = 300


@contextmanager
def raising(error: ApiError) -> Iterator[None]:
    """Raise `error` in place of any of `DECODE_ERRORS`, with the cause as its `detail`.

    `SpoolFull` is raised if the disk is full, and `TooComplexError` is raised again.
    """
    try:
        yield
    except TooComplexError:
        raise
    except DECODE_ERRORS as cause:
        if isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise SpoolFull(detail=f"LIMNER_SPOOL_DIR: {cause.strerror}") from None
        error.detail = f"{type(cause).__name__}: {cause}"[:_MAX_DETAIL]
        raise error from None


def unreadable_input(index: int) -> UserError:
    """Build the error for a damaged input image. `index` counts from 0, OpenAI's message from 1."""
    message = f"Invalid image file or mode for image {index + 1}, please check your image file."
    return UserError(message, code="invalid_image_file")


def unreadable_result() -> ImageUnavailable:
    """Build the error for a damaged image of an upstream."""
    return ImageUnavailable("The image that was generated cannot be read or converted.", code="image_unreadable")


# Decoding

#: Bytes of text in a PNG that are read, decompressed, and of one text or profile; Pillow's own limits are 64 and 1 MiB.
#: What is longer is left out. Several copies must fit into what a conversion is granted beside its pixels.
_MAX_TEXT, _MAX_METADATA = 16 << 20, 8 << 20

_METADATA_CHUNKS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})


class LenientPngStream(PngImagePlugin.PngStream):
    """The chunks of a PNG, without metadata that is too long or damaged: an image is worth more than its text."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        """Read a chunk, and return its bytes for the checksum."""
        if cid not in _METADATA_CHUNKS:
            return super().call(cid, pos, length)
        if self.text_memory + length <= _MAX_TEXT:
            try:
                return super().call(cid, pos, length)
            except (ValueError, SyntaxError, IndexError):
                cast(IO[bytes], self.fp).seek(pos)
        return cast(IO[bytes], self.fp).read(length)


def read_any_metadata() -> None:
    """Let Pillow read each PNG of this process, whatever its metadata says. It has no other place for that."""
    PngImagePlugin.MAX_TEXT_MEMORY, PngImagePlugin.MAX_TEXT_CHUNK = _MAX_TEXT, _MAX_METADATA
    setattr(PngImagePlugin, "PngStream", LenientPngStream)  # noqa: B010  # reason: a type cannot be assigned to


_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Entries that Pillow itself puts into `Image.info`. The text of a PNG with such a keyword replaces them.
_INFO_TYPES = {"icc_profile": (bytes,), "exif": (bytes,), "xmp": (bytes,), "transparency": (int, bytes, tuple)}


def open_image(source: Source, max_pixels: int) -> ImageFile:
    """Read the header only.

    Raises:
        DECODE_ERRORS: One of these, if the bytes are not an image.
        TooComplexError: It has more than `max_pixels`, or tiles that are much larger than itself.
    """
    try:
        image = Image.open(cast(IO[bytes], SourceReader(source)), formats=READABLE_FORMATS)
    except Image.DecompressionBombError as error:
        raise TooComplexError(str(error)) from None
    if image.width * image.height > max_pixels:
        raise TooComplexError(f"{image.width}x{image.height} is more than {max_pixels} pixels")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image)
    if image.mode == "P" and image.palette is None:
        raise ValueError("no palette")
    _drop_mistyped_info(image)
    return image


def upright_size(image: ImageFile) -> tuple[int, int]:
    """Return the size after rotation, as far as the header tells: a PNG may have its orientation after its pixels."""
    return (image.height, image.width) if orientation(image) >= 5 else image.size


def orientation(image: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8. Values from 5 exchange width and height."""
    return reset_orientation(image.info.get("exif", b""))[1]


def decode(image: ImageFile, ratio: float = 1.0) -> DecodedImage:
    """Decode the first frame of an opened image.

    16 bits per channel become 8, and CMYK becomes sRGB.

    Args:
        image: The image, which is used up.
        ratio: How much smaller it is going to be made. A JPEG is decoded directly at a fraction of its size.

    Raises:
        DECODE_ERRORS: One of these, if the image is damaged.
        TooComplexError: It is a JPEG with too many scans.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        _check_scans(image)
        image.draft(None, (round(image.width * ratio * 2) or 1, round(image.height * ratio * 2) or 1))
    image.load()
    _drop_mistyped_info(image)
    info = image.info
    text = {str(key): value for key, value in info.items() if image.format == "PNG" and isinstance(value, str)}
    exif, orientation = reset_orientation(info.get("exif", b""))
    # The decoder of a WebP or AVIF holds three copies of the image.
    vars(image).pop("_decoder", None)
    pixels = image.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else image
    pixels = _replace(image, pixels)
    pixels = _replace(pixels, _to_plain_mode(pixels))
    pixels.info = {}
    return DecodedImage(pixels, info.get("icc_profile", b""), exif, info.get("xmp", b""), text)


def _drop_mistyped_info(image: ImageFile) -> None:
    for key, types in _INFO_TYPES.items():
        if key in image.info and not isinstance(image.info[key], types):
            del image.info[key]


def _replace(image: Image.Image, new: Image.Image) -> Image.Image:
    """Return `new`, and release the pixels of `image` if that is another image."""
    if new is not image:
        image.close()
    return new


def _check_scans(image: JpegImagePlugin.JpegImageFile) -> None:
    # The first byte of a marker is escaped in image data, so nearly everything counted here is the start of a scan.
    file = cast(IO[bytes], image.fp)
    file.seek(0)
    scans = 0
    while data := file.read(1 << 18):
        scans += data.count(b"\xff\xda")
    if scans > MAX_SCANS or scans * image.width * image.height > MAX_SCANNED_PIXELS:
        raise TooComplexError(f"a JPEG of {image.width}x{image.height} pixels in {scans} scans")


def _check_tiles(image: TiffImagePlugin.TiffImageFile) -> None:
    tags = (image.tag_v2.get(tag) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    width, height = (tag if isinstance(tag, int) else 0 for tag in tags)
    if width * height > max(MAX_TILE_PIXELS, 4 * image.width * image.height):
        raise TooComplexError(f"a TIFF of {image.width}x{image.height} pixels with a tile of {width}x{height}")


def _to_plain_mode(image: Image.Image) -> Image.Image:
    """Convert to mode L, LA, RGB or RGBA."""
    if image.mode in {"I", "F"}:
        raise ValueError(f"mode {image.mode}: it is unknown which value is white")
    if image.mode.startswith("I;16"):
        return _sixteen_to_eight_bits(image)
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 0xFF:
        # The transparent color has 16 bits per channel, but Pillow has reduced the pixels to 8.
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    mode = ("L" if image.mode in {"1", "L", "LA", "La"} else "RGB") + ("A" if image.has_transparency_data else "")
    return image if image.mode == mode else image.convert(mode)


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion makes every value above 255 white.
    values = image.convert("I")
    gray = values.point([value >> 8 for value in range(1 << 16)], "L")
    if "transparency" not in image.info:
        return gray
    transparent = image.info["transparency"]
    alpha = values.point([0xFF * (value != transparent) for value in range(1 << 16)], "L")
    return Image.merge("LA", (gray, alpha))


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """Convert by the color profile. Without one that works, assume ideal inks."""
    profile = io.BytesIO(image.info.get("icc_profile", b""))
    try:
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")
    return cast(Image.Image, converted)


# Encoding

#: PNG keywords with an equivalent EXIF tag, for formats that have no text.
EXIF_TAG_OF_TEXT = {"Description": 0x010E, "Software": 0x0131, "Author": 0x013B, "Copyright": 0x8298}

#: The bytes of each kind of metadata that the markers of a JPEG can hold.
JPEG_MAX_METADATA = {"icc_profile": 255 * 65519, "exif": 65533, "xmp": 65504}


def encode(image: DecodedImage, image_format: str, quality: int, new_sink: Callable[[], _S]) -> _S:
    """Encode an image into a new sink, which is closed if that fails.

    The color profile, EXIF and XMP are preserved. The text of a PNG is preserved in PNG; in other formats some keywords
    become EXIF (see `EXIF_TAG_OF_TEXT`), unless the image has EXIF of its own. In JPEG, transparent pixels are laid on
    white.

    Args:
        image: The image.
        image_format: png, jpeg or webp.
        quality: 0 to 100. Not used for png.
        new_sink: Creates the sink.
    """
    sink = new_sink()
    with ExitStack() as on_error:
        on_error.callback(sink.close)
        pixels = _flatten(image.pixels) if image_format == "jpeg" else image.pixels
        options = _OPTIONS[image_format](image, quality)
        pixels.save(cast(IO[bytes], SinkWriter(sink)), image_format.upper(), **options)
        on_error.pop_all()
    return sink


def _flatten(pixels: Image.Image) -> Image.Image:
    if not pixels.mode.endswith("A"):
        return pixels
    background = Image.new(pixels.mode.removesuffix("A"), pixels.size, "white")
    background.paste(pixels, mask=pixels.getchannel("A"))
    return background


def _png_options(image: DecodedImage, _quality: int) -> dict[str, Any]:
    text = PngImagePlugin.PngInfo()
    for keyword, value in image.text.items():
        text.add_text(keyword, value)
    if image.xmp and "XML:com.adobe.xmp" not in image.text:
        text.add_itxt("XML:com.adobe.xmp", image.xmp.decode("utf-8", "replace"))
    profile = _profile_for_mode(image, image.pixels.mode)
    # Level 3 takes two thirds of the time of the default level 6, for files that are 12 % larger.
    return {"compress_level": 3, "pnginfo": text, "icc_profile": profile, "exif": image.exif}


def _jpeg_options(image: DecodedImage, quality: int) -> dict[str, Any]:
    profile = _profile_for_mode(image, image.pixels.mode)
    metadata = {"icc_profile": profile, "exif": _exif_with_text(image), "xmp": image.xmp}
    fitting = {name: value for name, value in metadata.items() if len(value) <= JPEG_MAX_METADATA[name]}
    # Colors at full resolution keep the text in a poster sharp.
    return {"quality": quality, "subsampling": "4:4:4" if quality >= 90 else "4:2:0"} | fitting


def _webp_options(image: DecodedImage, quality: int) -> dict[str, Any]:
    # WebP has no grayscale, so the pixels become RGB.
    profile = _profile_for_mode(image, "RGB")
    return {"quality": quality, "method": 4, "icc_profile": profile, "exif": _exif_with_text(image), "xmp": image.xmp}


_OPTIONS = {"png": _png_options, "jpeg": _jpeg_options, "webp": _webp_options}


def _profile_for_mode(image: DecodedImage, mode: str) -> bytes:
    """Return the color profile if it describes the channels of `mode`, which its bytes 16 to 20 name."""
    return image.profile if image.profile[16:20] == (b"GRAY" if mode.startswith("L") else b"RGB ") else b""


def _exif_with_text(image: DecodedImage) -> bytes:
    texts = {tag: image.text[keyword] for keyword, tag in EXIF_TAG_OF_TEXT.items() if keyword in image.text}
    if image.exif or not texts:
        return image.exif
    exif = Image.Exif()
    for tag, value in texts.items():
        exif[tag] = value.encode()
    return exif.tobytes()


# EXIF

#: The start of EXIF in JPEG. WebP and AVIF leave it out.
EXIF_HEADER = b"Exif\0\0"
_ORIENTATION = 0x0112


def reset_orientation(exif: bytes) -> tuple[bytes, int]:
    """Set the orientation to 1. Returns the EXIF with `EXIF_HEADER` in front, and its former orientation (1 to 8).

    Returns no bytes and 1 if there is no EXIF or it cannot be read: browsers do not rotate such images either.
    """
    # Patched, not written again, because maker notes contain offsets.
    tiff = bytearray(exif.removeprefix(EXIF_HEADER))
    try:
        order = {b"II": "<", b"MM": ">"}[bytes(tiff[:2])]
        (directory,) = struct.unpack_from(order + "4xI", tiff)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, orientation = struct.unpack_from(order + "H6xH", tiff, entry)
            if tag == _ORIENTATION:
                struct.pack_into(order + "H", tiff, entry + 8, 1)
                return EXIF_HEADER + tiff, orientation if 1 <= orientation <= 8 else 1
    except (KeyError, struct.error):
        return b"", 1
    return EXIF_HEADER + tiff, 1


# Files for Pillow


class SourceReader(io.RawIOBase):
    """Read a source without copying it, and never beyond its end.

    It has no descriptor that Pillow could use: another process may read the same file at another position.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._source.size - self._position)
        length = left if size < 0 else min(size, left)
        data = self._source.read_at(self._position, length) if length else b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start of the file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position


class SinkWriter(io.RawIOBase):
    """Append to a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, data: Any, /) -> int:
        self._sink.write(data)
        return len(data)
