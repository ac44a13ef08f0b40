"""Sign converted images with the operator's certificate, in processes that do nothing else (C2PA, `limner[c2pa]`).

The key never reaches a process in which images are decoded, and files that others have signed never reach this process.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import orjson

from app.errors import ImageUnavailable
from app.images.blob import Blob
from app.images.decoder_jobs import DecoderJob, DecoderJobs
from app.images.decoder_pool import ENVIRONMENT, DecoderPool
from app.images.memory_budget import MemoryBudget

#: Seconds for one image. Only a time-stamp authority takes longer than some milliseconds for each megabyte.
_MAX_SECONDS = 30.0

#: Images that are signed at once: a time-stamp authority lets them wait.
_AT_ONCE = 4

#: Seconds for trying a certificate, most of which are for starting Python on a busy machine.
_CHECK_SECONDS = 60.0

_CHECK = "import sys; sys.path[:] = sys.argv[1:]; from app.images.manifests import main; main()"


class InvalidSigner(ValueError):
    """The certificate or the key for signing cannot be used. The text names the setting and says why."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A certificate and key that C2PA accepts.

    Attributes:
        certificates: As PEM, that of the key first.
        key: As PEM, in PKCS #8.
        algorithm: By C2PA's name, like `es256`.
        subject: Whose certificate it is.
        until: When the certificate ends.
    """

    certificates: str
    key: str = field(repr=False)
    algorithm: str
    subject: str
    until: datetime


def is_available() -> bool:
    """Return whether the packages of `limner[c2pa]` are installed."""
    return find_spec("c2pa") is not None and find_spec("cryptography") is not None


def load_signing_key(certificates: Path, key: str) -> SigningKey:
    """Sign a sample with a certificate and its key, which is PEM, in a process of its own.

    Raises:
        InvalidSigner: They cannot be used.
    """
    try:
        chain = certificates.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        raise InvalidSigner("LIMNER_SIGN_CERTIFICATES: is no text file that can be read") from None
    done = subprocess.run(  # noqa: S603  # reason: our own interpreter
        [sys.executable, "-I", "-S", "-c", _CHECK, *map(str, map(Path.absolute, map(Path, sys.path)))],
        input=orjson.dumps({"certificates": chain, "key": key}),
        capture_output=True,
        cwd="/",
        env=ENVIRONMENT,
        timeout=_CHECK_SECONDS,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise InvalidSigner(f"LIMNER_SIGN_CERTIFICATES: the library of limner[c2pa] does not work here: {reason}")
    answer = orjson.loads(done.stdout)
    if "part" in answer:
        raise InvalidSigner(f"LIMNER_SIGN_{answer['part'].upper()}: {answer['reason']}")
    until = datetime.fromtimestamp(answer["until"], UTC)
    return SigningKey(chain, answer["key"], answer["algorithm"], answer["subject"], until)


class Signer:
    """Sign images that were converted."""

    def __init__(
        self,
        key: SigningKey,
        *,
        version: str,
        timestamps: str | None = None,
        new_blob: Callable[[], Blob] = Blob,
        memory: int = 2**30,
        seconds: float = _MAX_SECONDS,
    ) -> None:
        """`version` is that of this program, `timestamps` the address of a time-stamp authority."""
        self._key = key
        self._version = version
        self._timestamps = timestamps
        self._pool = DecoderPool(1, seconds)
        self._jobs = DecoderJobs(self._pool, MemoryBudget(memory, _AT_ONCE), new_blob, max_pixels=0)

    def start(self) -> None:
        """Start a process, so that the first image does not wait for it."""
        self._pool.start()

    async def sign(
        self, image: Blob, original: Blob, *, caller: str = "", is_ingredient: bool = False, is_masked: bool = False
    ) -> Blob:
        """Return a copy of the image with a signed manifest. The caller closes it.

        Args:
            image: The converted image.
            original: The upstream's image.
            caller: Who gets it.
            is_ingredient: Whether the original has a manifest, to which the new one refers.
            is_masked: Whether a part of the image is not the model's.

        Raises:
            ImageUnavailable: It cannot be signed.
        """
        key = self._key
        who = key.certificates, key.key, key.algorithm, self._timestamps, self._version
        failed = ImageUnavailable("The image could not be signed.", code="image_unreadable")
        job = DecoderJob("sign", (*who, is_ingredient, is_masked), [image, original], caller, True, failed)
        _, signed = await self._jobs.run(job)
        return image if signed is None else signed

    def close(self) -> None:
        """End the processes."""
        self._pool.close()
