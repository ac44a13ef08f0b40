"""Write signed manifests (C2PA) into images that were converted, and try the operator's certificate at the start.

Everything here runs in processes of its own: those that sign hold the operator's key and decode no image. The libraries
belong to the extra `limner[c2pa]`, so they are imported inside the functions.
"""

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from app.errors import ImageUnavailable
from app.images.codec import Source, SourceReader
from app.images.decode_cost import Cost, DecodeLimits
from app.images.provenance import PARTLY_GENERATED, VOCABULARY
from app.protocol.file_parts import ReadAt
from app.protocol.image_format import read_info
from app.protocol.inline_images import placeholder_png

#: What a certificate must be issued for, one of these: signing claims of C2PA, documents, or e-mails. The library knows
#: only the last one by itself.
_KEY_USAGES = "1.3.6.1.4.1.62558.2.1\n1.3.6.1.5.5.7.3.36\n1.3.6.1.5.5.7.3.4"

#: Nothing is downloaded for an image that others have made, and no thumbnail of it is decoded.
_LIBRARY_SETTINGS = {
    "trust": {"trust_config": _KEY_USAGES},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}

#: Memory for each byte of the files, and beside them. Measured: 2 and 14 MiB.
_PER_BYTE, _FIXED_BYTES = 4, 64 * 2**20

#: Seconds of CPU time for each byte, and beside them. Measured: 1 ns.
_SECONDS_PER_BYTE, _FIXED_SECONDS = 50e-9, 4.0

_MAX_DETAIL = 300


class SigningOptions(NamedTuple):
    """How an image is signed.

    Attributes:
        certificates: As PEM, that of the key first.
        key: As PEM, in PKCS #8.
        algorithm: By C2PA's name, like `es256`.
        timestamps: The address of a time-stamp authority.
        generator: Version of this program.
        is_ingredient: Whether the original has a manifest of its own, to which the new one refers.
        is_masked: Whether a part of the image is not the model's.
    """

    certificates: str
    key: str
    algorithm: str
    timestamps: str | None = None
    generator: str = ""
    is_ingredient: bool = False
    is_masked: bool = False


def sign(image: Source, original: Source, options: SigningOptions, limits: DecodeLimits) -> memoryview:
    """Return a copy of the image with a manifest that says what was done to the original.

    Raises:
        ImageUnavailable: One of the files cannot be read by the library, or nothing could be signed.
    """
    import c2pa  # type: ignore[import-untyped]  # noqa: PLC0415  # reason: an extra

    # Admitted after the import, since what the process holds already does not count.
    size = image.size + original.size
    limits.admit(Cost(size * _PER_BYTE + _FIXED_BYTES, size * _SECONDS_PER_BYTE + _FIXED_SECONDS))
    try:
        return _with_manifest(c2pa, image, original, options)
    except c2pa.C2paError as error:
        detail = f"{type(error).__name__.removeprefix('_C2pa')}: {error}"[:_MAX_DETAIL]
        raise ImageUnavailable("The image could not be signed.", code="image_unreadable", detail=detail) from None


def _with_manifest(c2pa: Any, image: Source, original: Source, options: SigningOptions) -> memoryview:
    address = None if options.timestamps is None else options.timestamps.encode()
    credentials = (options.certificates.encode(), options.key.encode())
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(options.algorithm, *credentials, address))
    context = c2pa.Context(c2pa.Settings.from_dict(_LIBRARY_SETTINGS), signer)
    builder = c2pa.Builder.from_json(orjson.dumps(describe(image, original, options)).decode(), context=context)
    if options.is_ingredient:
        builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
        parent = orjson.dumps({"relationship": "parentOf"}).decode()
        builder.add_ingredient(parent, _format(original.read_at), _stream(original))
    else:
        types = c2pa.C2paDigitalSourceType
        source_type = (
            types.COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA if options.is_masked else types.TRAINED_ALGORITHMIC_MEDIA
        )
        builder.set_intent(c2pa.C2paBuilderIntent.CREATE, source_type)
    signed = io.BytesIO()
    builder.sign(_format(image.read_at), _stream(image), signed)
    return signed.getbuffer()


def describe(image: Source, original: Source, options: SigningOptions) -> dict[str, Any]:
    """Return the manifest, without what the library adds: that the original was opened, or the image created."""
    made, received = read_info(image.read_at), read_info(original.read_at)
    actions: list[dict[str, str]] = []
    if options.is_masked:
        source_type = VOCABULARY + PARTLY_GENERATED
        actions.append({"action": "c2pa.edited", "digitalSourceType": source_type})
    if made is not None and received is not None and made.size != received.size:
        actions.append({"action": "c2pa.resized"})
    if not actions or made is None or received is None or made.format != received.format:
        actions.append({"action": "c2pa.transcoded"})
    return {
        "claim_generator_info": [{"name": "Limner", "version": options.generator}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _format(read_at: ReadAt) -> str:
    info = read_info(read_at)
    return "" if info is None else info.format


def _stream(source: Source) -> io.BufferedReader:
    """Return the source as the library wants it: it asks for a `write` as well, but does not use it."""
    return io.BufferedReader(_RawStream(source))


class _RawStream(SourceReader):
    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        memoryview(buffer)[: len(data)] = data
        return len(data)


# The certificate of the operator

#: C2PA's names for elliptic keys, by their curve.
_ELLIPTIC = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}

_PROFILE = (
    "It must name the key that has issued it, permit digital signatures, and have an extended key usage for claims of "
    "C2PA, documents or e-mails"
)


class Refused(Exception):
    """A certificate or key cannot be used. `part` is `certificates` or `key`, the text says why."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(reason)
        self.part = part


def check(certificates: str, key: str, now: datetime) -> dict[str, Any]:
    """Return what is known of a certificate and its key, with the key in PKCS #8, after signing a sample with them.

    Raises:
        Refused: They cannot be used.
    """
    from cryptography import x509  # noqa: PLC0415  # reason: an extra
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
    )

    try:
        chain = x509.load_pem_x509_certificates(certificates.encode())
    except ValueError:
        raise Refused("certificates", "has no certificates that can be read, as PEM") from None
    try:
        private = load_pem_private_key(key.encode(), password=None)
    except TypeError:
        raise Refused("key", "is encrypted. Give it without a password, readable by this server only") from None
    except ValueError:
        raise Refused("key", "is no private key that can be read, as PEM") from None
    public = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*public) != chain[0].public_key().public_bytes(*public):
        raise Refused("key", "is not the key of the first certificate in LIMNER_SIGN_CERTIFICATES")
    since, until = chain[0].not_valid_before_utc, chain[0].not_valid_after_utc
    if not since <= now <= until:
        raise Refused("certificates", f"are valid from {since:%Y-%m-%d} to {until:%Y-%m-%d}, which is not now")
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    algorithm = _algorithm(private)
    _sign_sample(SigningOptions(certificates, pem, algorithm))
    return {
        "key": pem,
        "algorithm": algorithm,
        "subject": chain[0].subject.rfc4514_string(),
        "until": until.timestamp(),
    }


def _algorithm(private: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415  # reason: an extra

    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _ELLIPTIC:
        return _ELLIPTIC[private.curve.name]
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise Refused("key", "is of a kind that C2PA does not know. It knows P-256, P-384, P-521, Ed25519 and RSA")


def _sign_sample(options: SigningOptions) -> None:
    sample = _Sample(placeholder_png(0))
    try:
        sign(sample, sample, options, DecodeLimits(max_pixels=0))
    except ImageUnavailable as error:
        raise Refused("certificates", f"are not accepted by C2PA ({error.detail}). {_PROFILE}") from None


@dataclass(frozen=True, slots=True)
class _Sample:
    """A small file in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, size: int, /) -> bytes:
        return self.data[offset : offset + size]


def main() -> None:
    """Check what stands in the standard input, and print the answer: both are JSON."""
    asked: Mapping[str, str] = orjson.loads(sys.stdin.buffer.read())
    try:
        answer = check(asked["certificates"], asked["key"], datetime.now(UTC))
    except Refused as refused:
        answer = {"part": refused.part, "reason": str(refused)}
    sys.stdout.buffer.write(orjson.dumps(answer))
