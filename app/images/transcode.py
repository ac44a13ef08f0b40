"""Convert images in decoder processes, within a budget of memory that callers share fairly.

Results become what the client requested, input images what upstreams accept, and masks restore what an edit must not
change. This process never decodes an image.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import ApiError, ImageUnavailable, UserError
from app.images.blob import Blob
from app.images.decoder_jobs import DecoderJob, DecoderJobs
from app.images.decoder_pool import DecoderPool
from app.images.input_limits import DEFAULT_LIMITS, NO_LIMITS, InputLimits
from app.images.memory_budget import MemoryBudget
from app.protocol.size_fit import SizeMode

_Size = tuple[int, int]

#: 256 MiB once decoded: more than any phone makes by default, and eight times the largest image of the API.
MAX_PIXELS = 1 << 26

#: Bytes of memory for all decoders of this process.
MEMORY = 2**30

#: Decoders that work at once: one for each processor, but always one for results beside one for inputs.
DECODERS = max(2, min(4, os.cpu_count() or 2))


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """An input image that upstreams accept.

    Attributes:
        blob: The client's own, or a new one that the caller closes.
        size: The upright size in pixels.
        shrunk: What was made smaller, in ASCII for a header. None if the image was within the limits.
    """

    blob: Blob
    size: _Size
    shrunk: str | None = None


class Transcoder:
    """Convert images. Those that wait for a decoder remain blobs.

    A call that is canceled ends at once, and its decoder with it.
    """

    def __init__(
        self,
        *,
        new_blob: Callable[[], Blob] = Blob,
        memory: int = MEMORY,
        decoders: int = DECODERS,
    ) -> None:
        self.budget = MemoryBudget(memory, decoders)
        self._pool = DecoderPool(decoders)
        self._jobs = DecoderJobs(self._pool, self.budget, new_blob, MAX_PIXELS)

    def start(self) -> None:
        """Start the decoders, so that the first image does not wait for them."""
        self._pool.start()

    async def convert(
        self,
        blob: Blob,
        *,
        caller: str = "",
        image_format: str | None = None,
        compression: int | None = None,
        size: _Size | None = None,
        mode: SizeMode = SizeMode.NATIVE,
        transparent: bool = False,
    ) -> Blob:
        """Convert a result. Returns the same blob if nothing has to change.

        Of an animation, the first frame is used.

        Args:
            blob: The result.
            caller: Who gets it.
            image_format: png, jpeg or webp. None keeps the format, or chooses png if the format cannot be written.
            compression: The API's output_compression, 0 to 100, which is the quality of jpeg and webp. 100 is its
                default, so it is no reason to encode an image again that has the right format.
            size: The image is scaled down to fit into it, or gets exactly this size.
            mode: Whether it does, and how.
            transparent: Whether padding is transparent in an image that is opaque.

        Raises:
            ImageUnavailable: The result cannot be read.
        """
        options = image_format, compression, size, mode, transparent
        _, made = await self._jobs.run(DecoderJob("convert", options, [blob], caller, True, _too_complex_result()))
        return blob if made is None else made

    async def prepare(
        self,
        blob: Blob,
        *,
        caller: str = "",
        index: int = 0,
        limits: InputLimits = DEFAULT_LIMITS,
        size: _Size | None = None,
    ) -> PreparedInput:
        """Make an input image upright, within the limits, and a PNG, JPEG or WebP with 8 bits per channel.

        If the image already has one of these formats, the format is kept, unless it has too many bytes: then it becomes
        JPEG, or remains PNG if it is transparent.

        Args:
            blob: The input image.
            caller: Who has sent it.
            index: Its position among the input images, from 0, for error messages.
            limits: Above these, the image is made smaller.
            size: The exact size, for a mask, which must match its image. The limits do not apply then.

        Raises:
            UserError: The image cannot be read.
        """
        within = tuple(limits if size is None else NO_LIMITS)
        too_complex = _too_complex_input(f"Image {index + 1}", "invalid_image_file")
        reply, made = await self._jobs.run(
            DecoderJob("prepare", (index, within, size), [blob], caller, False, too_complex)
        )
        width, height = reply["pixels"]
        return PreparedInput(blob if made is None else made, (width, height), reply["shrunk"])

    async def check_mask(self, mask: Blob, image: Blob, *, caller: str = "", exact: bool = False) -> None:
        """Check that a mask is a PNG with alpha and has the size of its image.

        `exact`: decode both as well, as `apply_mask` will have to.

        Raises:
            UserError: The mask cannot be used. The message is OpenAI's.
        """
        too_complex = _too_complex_input("The mask", "invalid_mask_image_format")
        await self._jobs.run(DecoderJob("check_mask", exact, [mask, image], caller, False, too_complex))

    async def apply_mask(self, result: Blob, original: Blob, mask: Blob, *, caller: str = "") -> Blob:
        """Restore the parts of the original that the mask protects. The caller closes the returned blob.

        Raises:
            UserError: The mask or the original cannot be used.
            ImageUnavailable: The result cannot be read.
        """
        job = DecoderJob("apply_mask", None, [result, original, mask], caller, True, _too_complex_result())
        _, made = await self._jobs.run(job)
        return result if made is None else made

    def close(self) -> None:
        """End the decoders."""
        self._pool.close()


def _too_complex_input(subject: str, code: str) -> ApiError:
    message = f"{subject} takes more memory or time to decode than this server permits. Please send a smaller one."
    return UserError(message, param="mask" if subject == "The mask" else None, code=code)


def _too_complex_result() -> ApiError:
    message = "The image that was generated takes more memory or time to convert than this server permits."
    return ImageUnavailable(message, code="image_unreadable")
