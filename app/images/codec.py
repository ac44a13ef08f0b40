"""Pictures in blobs: opened within limits, decoded upright and to eight bits, encoded with what belongs to them."""

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Any, cast

from PIL import (  # the plugins register themselves; without them the first picture would load all forty
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageCms,
    JpegImagePlugin,
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)
from PIL.ImageFile import ImageFile

from app.errors import ApiError, ImageUnavailable, UserError
from app.images.blob import Blob

#: What EXIF starts with in JPEG; WebP and AVIF leave it out.
EXIF_HEADER = b"Exif\0\0"
_ORIENTATION = 0x0112


def reset_orientation(exif: bytes) -> tuple[bytes, int]:
    """EXIF that says orientation 1, with MARK in front, and the orientation (1 to 8) that it said before.

    Patched and not written anew: maker notes hold offsets. Nothing and 1 where there is no EXIF or none that can be
    read: browsers show such pictures as they lie.
    """
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


#: What the bytes may turn out to be, whatever their name says. A phone's MPO opens as JPEG. HEIC needs a patented
#: decoder that Pillow does not bring.
READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF", "BMP")

#: 256 MiB once decoded. More than any phone makes by default, eight times the largest picture of the API.
MAX_PIXELS = 1 << 26

#: A progressive JPEG of 20 MB can ask for 200,000 passes of 25 ms over as many pixels. Honest files have about 10.
MAX_SCANS = 100

#: What comes out of Pillow for damaged files, found by mutating files of all FORMATS.
DECODE_ERRORS = (
    OSError,  # truncated, not identified, refused by a decoder
    SyntaxError,  # a broken header; all of a broken AVIF
    ValueError,  # sizes, modes and pieces that do not fit together
    TypeError,  # TIFF whose places are fractions
    RuntimeError,  # AVIF
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where warnings are errors
)

#: PNG keywords that have an EXIF tag, for formats that hold no text of their own.
EXIF_TAG_OF_TEXT = {"Description": 0x010E, "Software": 0x0131, "Author": 0x013B, "Copyright": 0x8298}

#: How many bytes a JPEG's markers can hold of each.
JPEG_MAX_METADATA = {"icc_profile": 255 * 65519, "exif": 65533, "xmp": 65504}

#: What Pillow itself puts into `Image.info`. A PNG's text with such a keyword takes its place.
_INFO_TYPES = {"icc_profile": (bytes,), "exif": (bytes,), "xmp": (bytes,), "transparency": (int, bytes, tuple)}

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BlobReader(io.RawIOBase):
    """A file for Pillow over a blob that is not copied; never asks the blob for more than there is."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._blob.size - self._at)
        wanted = left if size < 0 else min(size, left)
        data = self._blob.read_at(self._at, wanted) if wanted else b""
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._blob.size}[whence]
        if start + offset < 0:
            raise ValueError("a place before the start of the file")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at


class BlobWriter(io.RawIOBase):
    def __init__(self, blob: Blob) -> None:
        self._blob = blob

    def write(self, data: Any, /) -> int:
        self._blob.write(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Upright `pixels` in mode L, LA, RGB or RGBA, and what else the file said; empty where it said nothing."""

    pixels: Image.Image
    profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    text: Mapping[str, str] = field(default_factory=dict)

    def scaled(self, size: tuple[int, int]) -> "DecodedImage":
        if self.pixels.size == size:
            return self
        return replace(self, pixels=self.pixels.resize(size, Image.Resampling.LANCZOS))


@contextmanager
def raising(error: ApiError) -> Iterator[None]:
    """Raise `error` in place of any of `DECODE_ERRORS`, with the cause as its `detail`."""
    try:
        yield
    except DECODE_ERRORS as cause:
        error.detail = f"{type(cause).__name__}: {cause}"
        raise error from None


def unreadable_input(index: int) -> UserError:
    """`index` counts from 0, the official message from 1."""
    message = f"Invalid image file or mode for image {index + 1}, please check your image file."
    return UserError(message, code="invalid_image_file")


def unreadable_result() -> ImageUnavailable:
    return ImageUnavailable("The image that was generated cannot be read or converted.", code="image_unreadable")


def open_image(blob: Blob, max_pixels: int) -> ImageFile:
    """Read the header only.

    Raises:
        DECODE_ERRORS: One of these, for bytes that are no image, and for one with more than `max_pixels`.
    """
    image = Image.open(cast(IO[bytes], BlobReader(blob)), formats=READABLE_FORMATS)
    if image.width * image.height > max_pixels:
        raise Image.DecompressionBombError(f"{image.width}x{image.height} is more than {max_pixels} pixels")
    if image.mode == "P" and image.palette is None:
        raise ValueError("no palette")
    _drop_mistyped_info(image)
    return image


def upright_size(image: ImageFile) -> tuple[int, int]:
    """As far as the header tells: a PNG may say behind its pixels that it is to be turned."""
    return (image.height, image.width) if orientation(image) >= 5 else image.size


def orientation(image: ImageFile) -> int:
    return reset_orientation(image.info.get("exif", b""))[1]


def decode(image: ImageFile, ratio: float = 1.0) -> DecodedImage:
    """The first frame. `ratio` says how much smaller it will be made: a JPEG is then decoded at a fraction of its size.

    Sixteen bits a channel become eight, CMYK becomes sRGB. Raises one of DECODE_ERRORS.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        _check_scans(cast(BlobReader, image.fp))
        image.draft(None, (round(image.width * ratio * 2) or 1, round(image.height * ratio * 2) or 1))
    image.load()
    _drop_mistyped_info(image)
    info = image.info
    text = {str(key): value for key, value in info.items() if image.format == "PNG" and isinstance(value, str)}
    upright_exif, turn = reset_orientation(info.get("exif", b""))
    pixels = _to_plain_mode(image)
    if turn in _TRANSPOSITIONS:
        pixels = pixels.transpose(_TRANSPOSITIONS[turn])
    pixels.info = {}
    return DecodedImage(pixels, info.get("icc_profile", b""), upright_exif, info.get("xmp", b""), text)


def encode(image: DecodedImage, image_format: str, quality: int, new_blob: Callable[[], Blob]) -> Blob:
    """`format` is png, jpeg or webp, `quality` 0 to 100 (png has none). Alpha is laid on white for jpeg.

    Colour profile, EXIF and XMP are kept. Text stays text in PNG; elsewhere EXIF_OF_TEXT says what becomes EXIF,
    unless the picture has EXIF of its own.
    """
    blob = new_blob()
    with ExitStack() as undo:
        undo.callback(blob.close)
        pixels = _flatten(image.pixels) if image_format == "jpeg" else image.pixels
        pixels.save(cast(IO[bytes], BlobWriter(blob)), image_format.upper(), **_OPTIONS[image_format](image, quality))
        undo.pop_all()
    return blob


def _png_options(picture: DecodedImage, _quality: int) -> dict[str, Any]:
    """Level 3 takes two thirds of the time of the default 6, for files that are 12 % larger."""
    text = PngImagePlugin.PngInfo()
    for keyword, value in picture.text.items():
        text.add_text(keyword, value)
    if picture.xmp and "XML:com.adobe.xmp" not in picture.text:
        text.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
    profile = _profile_for_mode(picture, picture.pixels.mode)
    return {"compress_level": 3, "pnginfo": text, "icc_profile": profile, "exif": picture.exif}


def _jpeg_options(picture: DecodedImage, quality: int) -> dict[str, Any]:
    """The writing in a poster needs colours at full resolution."""
    profile = _profile_for_mode(picture, picture.pixels.mode)
    kept = {"icc_profile": profile, "exif": _exif_with_text(picture), "xmp": picture.xmp}
    held = {name: value for name, value in kept.items() if len(value) <= JPEG_MAX_METADATA[name]}
    return {"quality": quality, "subsampling": "4:4:4" if quality >= 90 else "4:2:0"} | held


def _webp_options(picture: DecodedImage, quality: int) -> dict[str, Any]:
    """A WebP has no greys, they become RGB."""
    profile = _profile_for_mode(picture, "RGB")
    return {
        "quality": quality,
        "method": 4,
        "icc_profile": profile,
        "exif": _exif_with_text(picture),
        "xmp": picture.xmp,
    }


_OPTIONS = {"png": _png_options, "jpeg": _jpeg_options, "webp": _webp_options}


def _profile_for_mode(picture: DecodedImage, mode: str) -> bytes:
    """Only one that speaks of the channels of `mode`: bytes 16 to 20 of a profile name them."""
    return picture.profile if picture.profile[16:20] == (b"GRAY" if mode.startswith("L") else b"RGB ") else b""


def _exif_with_text(picture: DecodedImage) -> bytes:
    texts = {tag: picture.text[keyword] for keyword, tag in EXIF_TAG_OF_TEXT.items() if keyword in picture.text}
    if picture.exif or not texts:
        return picture.exif
    made = Image.Exif()
    for tag, value in texts.items():
        made[tag] = value.encode()
    return made.tobytes()


def _drop_mistyped_info(image: ImageFile) -> None:
    for key, kinds in _INFO_TYPES.items():
        if key in image.info and not isinstance(image.info[key], kinds):
            del image.info[key]


def _check_scans(file: BlobReader) -> None:
    """Data escapes the first byte of a marker, so this counts hardly anything but starts of scans."""
    file.seek(0)
    scans = 0
    while data := file.read(1 << 18):
        scans += data.count(b"\xff\xda")
    if scans > MAX_SCANS:
        raise ValueError(f"a JPEG of {scans} scans")


def _to_plain_mode(image: Image.Image) -> Image.Image:
    if image.mode in {"I", "F"}:
        raise ValueError(f"mode {image.mode}: nobody says which value is white")
    if image.mode.startswith("I;16"):
        return _sixteen_to_eight_bits(image)
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 0xFF:  # 16 bits a channel, while Pillow has cut the pixels to 8
        image.info["transparency"] = tuple(value >> 8 for value in key)
    mode = ("L" if image.mode in {"1", "L", "LA", "La"} else "RGB") + ("A" if image.has_transparency_data else "")
    return image if image.mode == mode else image.convert(mode)


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversion makes everything above 255 white."""
    values = image.convert("I")
    grey = values.point([value >> 8 for value in range(1 << 16)], "L")
    if "transparency" not in image.info:
        return grey
    key = image.info["transparency"]
    return Image.merge("LA", (grey, values.point([0xFF * (value != key) for value in range(1 << 16)], "L")))


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """By the profile where there is one that works; else as if inks were perfect."""
    profile = io.BytesIO(image.info.get("icc_profile", b""))
    try:
        made = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")
    return cast(Image.Image, made)


def _flatten(pixels: Image.Image) -> Image.Image:
    if not pixels.mode.endswith("A"):
        return pixels
    ground = Image.new(pixels.mode.removesuffix("A"), pixels.size, "white")
    ground.paste(pixels, mask=pixels.getchannel("A"))
    return ground
