"""Certificates for signing images, made when they are needed, and files that were signed with them."""

import io
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import c2pa  # type: ignore[import-untyped]
import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.types import Receive, Scope, Send

_KEY_USAGES = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A chain of certificates as PEM, the signer's first, with its key."""

    chain: str
    key: Any

    def pem(
        self, form: PrivateFormat = PrivateFormat.PKCS8, encryption: KeySerializationEncryption | None = None
    ) -> str:
        return str(self.key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode())

    def encrypted_pem(self) -> str:
        return self.pem(encryption=BestAvailableEncryption(b"password"))

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the chain into a file, and return the settings for it and its key."""
        path = folder / "chain.pem"
        path.write_text(self.chain)
        return {"sign_certificates": path, "sign_key": self.pem()}


@cache
def key_of(kind: str) -> Any:
    """Return the same key each time: RSA takes long to make."""
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {
        "p256": ec.SECP256R1(),
        "p384": ec.SECP384R1(),
        "p521": ec.SECP521R1(),
        "k256": ec.SECP256K1(),
    }
    return ec.generate_private_key(curves[kind])


def credentials(
    kind: str = "p256",
    *,
    begins: timedelta = timedelta(days=-1),
    ends: timedelta = timedelta(days=9),
    usages: Iterable[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.EMAIL_PROTECTION,),
    is_usage_critical: bool = False,
) -> Credentials:
    """Return the certificate of a signer, issued by another one that nobody trusts."""
    now = datetime.now(UTC)
    key, issuing_key = key_of(kind), ec.generate_private_key(ec.SECP256R1())
    issuer = _name("Root")
    leaf = _certificate(_name("Signer"), issuer, key.public_key(), (now + begins, now + ends), is_authority=False)
    leaf = leaf.add_extension(x509.ExtendedKeyUsage(usages), critical=is_usage_critical)
    leaf = leaf.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing_key.public_key()), critical=False
    )
    root = _certificate(
        issuer,
        issuer,
        issuing_key.public_key(),
        (now - timedelta(days=99), now + timedelta(days=99)),
        is_authority=True,
    )
    chain = [leaf.sign(issuing_key, hashes.SHA256()), root.sign(issuing_key, hashes.SHA256())]
    return Credentials("".join(each.public_bytes(Encoding.PEM).decode() for each in chain), key)


def _name(text: str) -> x509.Name:
    organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test")
    return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, public_key: Any, times: tuple[datetime, datetime], *, is_authority: bool
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(times[0]).not_valid_after(times[1])
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    usage = dict.fromkeys((*_KEY_USAGES, "encipher_only", "decipher_only"), False) | {
        "digital_signature": not is_authority
    }
    return builder.add_extension(x509.KeyUsage(**usage | {"key_cert_sign": is_authority}), critical=True)


# Files


@cache
def upstream_credentials() -> Credentials:
    return credentials()


def genuinely_signed(data: bytes, image_format: str) -> bytes:
    """Return an image as an upstream signs it: created by a model."""
    who = upstream_credentials()
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo("es256", who.chain.encode(), who.pem().encode(), None))
    builder = c2pa.Builder.from_json(
        orjson.dumps({"claim_generator_info": [{"name": "Upstream"}]}).decode(),
        context=c2pa.Context(c2pa.Settings(), signer),
    )
    builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
    made = io.BytesIO()
    builder.sign(image_format, io.BytesIO(data), made)
    return made.getvalue()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What C2PA's own reader says of a file.

    Attributes:
        state: `Valid`, if nothing was changed since it was signed: nobody trusts the certificates of tests.
        actions: What was done, in order.
        source_types: Of these actions, where they have one, without the address of the vocabulary.
        parents: Who signed each file from which this one was made.
        time: When it was signed, by the word of a time-stamp authority.
    """

    state: str
    generator: dict[str, str]
    issuer: str
    algorithm: str
    actions: tuple[str, ...]
    source_types: tuple[str, ...]
    parents: tuple[str, ...]
    time: str | None


def read_manifest(data: bytes, image_format: str) -> Manifest:
    reader = c2pa.Reader(image_format, io.BytesIO(data))
    active = reader.get_active_manifest()
    actions = next(each["data"]["actions"] for each in active["assertions"] if each["label"].startswith("c2pa.actions"))
    types = (action.get("digitalSourceType", "").rpartition("/")[2] for action in actions)
    ingredients = [each for each in active.get("ingredients", ()) if each["relationship"] == "parentOf"]
    parents = [reader.get_manifest(each["active_manifest"]) for each in ingredients if "active_manifest" in each]
    return Manifest(
        state=reader.get_validation_state(),
        generator=active["claim_generator_info"][0],
        issuer=active["signature_info"]["common_name"],
        algorithm=active["signature_info"]["alg"],
        actions=tuple(action["action"] for action in actions),
        source_types=tuple(filter(None, types)),
        parents=tuple(each["claim_generator_info"][0]["name"] for each in parents),
        time=active["signature_info"].get("time"),
    )


@dataclass(slots=True)
class Web:
    """A server that answers everything in the same way, and counts the requests."""

    answer: Callable[[bytes], bytes] = lambda _: b""
    requests: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.requests.append(scope["path"])
            body, has_more = b"", True
            while has_more:
                message = await receive()
                body, has_more = body + message.get("body", b""), message.get("more_body", False)
            headers = [(b"content-type", b"application/timestamp-reply")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self.answer(body)})


@dataclass(frozen=True, slots=True)
class TimeStampAuthority:
    """Answers queries for time stamps (RFC 3161), with the program openssl."""

    folder: Path

    def __post_init__(self) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("needs openssl")
        who = credentials("rsa", usages=[ExtendedKeyUsageOID.TIME_STAMPING], is_usage_critical=True)
        certificate, end, issuer = who.chain.partition("-----END CERTIFICATE-----\n")
        texts = {"key": who.pem(), "signer": certificate + end, "chain": issuer, "serial": "01"}
        policy = "default_policy = 1.2.3.4\ndigests = sha256, sha384, sha512\nsigner_digest = sha256\n"
        texts["settings"] = f"[tsa]\ndefault_tsa = t\n[t]\nserial = {self.folder / 'serial'}\n{policy}"
        for name, text in texts.items():
            (self.folder / name).write_text(text)

    def answer(self, query: bytes) -> bytes:
        (self.folder / "query").write_bytes(query)
        names = {"queryfile": "query", "inkey": "key", "signer": "signer", "chain": "chain", "config": "settings"}
        options = [word for option, name in names.items() for word in (f"-{option}", str(self.folder / name))]
        command = ["openssl", "ts", "-reply", *options, "-out", str(self.folder / "reply")]
        subprocess.run(command, check=True, capture_output=True)
        return (self.folder / "reply").read_bytes()
