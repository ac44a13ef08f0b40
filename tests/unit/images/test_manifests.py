"""Converted images get a manifest that C2PA's own reader accepts, and a certificate that cannot sign is refused with a reason."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

from app.errors import ImageUnavailable
from app.images import manifests
from app.images.decode_cost import Cost, DecodeLimits, NotGranted
from app.images.manifests import Refused, SigningOptions, check, describe, sign
from tests.support.sample_images import as_blob, gradient, saved
from tests.support.servers import serve
from tests.support.signed_images import signed as badly_signed
from tests.support.signing import Credentials, Web, credentials, genuinely_signed, read_manifest

NOW = datetime.now(UTC)
WHO = credentials()
FORMATS = ("png", "jpeg", "webp")
PNG, JPEG, WEBP = (saved(gradient("RGB", (64, 48)), name) for name in FORMATS)
SMALL = saved(gradient("RGB", (32, 24)), "png")
GENERATED, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"


def options(who: Credentials = WHO, algorithm: str = "es256", **more: Any) -> SigningOptions:
    return SigningOptions(who.chain, who.pem(), algorithm, generator="1.2.3", **more)


def signed(image: bytes, original: bytes, chosen: SigningOptions) -> bytes:
    with as_blob(image) as made, as_blob(original) as received:
        return bytes(sign(made, received, chosen, DecodeLimits(0)))


def damaged(data: bytes) -> bytes:
    """Return a signed file whose manifest cannot be decoded."""
    place = data.index(b"c2pa.signature") + 60
    return data[:place] + bytes(byte ^ 0xFF for byte in data[place : place + 8]) + data[place + 8 :]


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize(("target", "data"), list(zip(FORMATS, (PNG, JPEG, WEBP), strict=True)))
def test_the_original_is_the_parent_of_what_was_made_of_it(source: str, target: str, data: bytes) -> None:
    original = genuinely_signed(saved(gradient("RGB", (64, 48)), source), source)
    found = read_manifest(signed(data, original, options(is_ingredient=True)), target)
    assert (found.state, found.issuer, found.algorithm) == ("Valid", "Signer", "Es256")
    assert (found.generator["name"], found.generator["version"]) == ("Limner", "1.2.3")
    assert (found.actions, found.source_types, found.parents) == (("c2pa.opened", "c2pa.transcoded"), (), ("Upstream",))


@dataclass(frozen=True)
class Case:
    name: str
    image: bytes
    original: bytes
    flags: dict[str, Any]
    actions: tuple[str, ...]
    source_types: tuple[str, ...] = ()


SIGNED = genuinely_signed(PNG, "png")
CASES = [
    Case("an unsigned image was created by a model", JPEG, PNG, {}, ("created", "transcoded"), (GENERATED,)),
    Case("a smaller image", SMALL, SIGNED, {"is_ingredient": True}, ("opened", "resized")),
    Case("a smaller image of another format", SMALL, JPEG, {}, ("created", "resized", "transcoded"), (GENERATED,)),
    Case("the same format, compressed", PNG, SIGNED, {"is_ingredient": True}, ("opened", "transcoded")),
    Case("a mask was applied", PNG, SIGNED, {"is_ingredient": True, "is_masked": True}, ("opened", "edited"), (COMPOSITE,)),
    Case("a mask was applied to an unsigned image", PNG, PNG, {"is_masked": True}, ("created", "edited"), (COMPOSITE, COMPOSITE)),
    Case("a mask was applied to another format", PNG, JPEG, {"is_masked": True}, ("created", "edited", "transcoded"), (COMPOSITE, COMPOSITE)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_manifest_says_what_was_done(case: Case) -> None:
    found = read_manifest(
        signed(case.image, case.original, options(**case.flags)), "jpeg" if case.image is JPEG else "png"
    )
    assert found.state == "Valid"
    assert (found.actions, found.source_types) == (tuple(f"c2pa.{name}" for name in case.actions), case.source_types)


def test_a_file_that_says_nothing_of_itself_was_converted() -> None:
    (actions,) = describe(as_blob(b"?"), as_blob(PNG), options())["assertions"]
    assert actions["data"]["actions"] == [{"action": "c2pa.transcoded"}]


@pytest.mark.parametrize(
    ("name", "image", "original"),
    [
        ("the original has no manifest that can be read", PNG, damaged(SIGNED)),
        ("the original is cut off", PNG, SIGNED[:2000]),
        ("the image is of no known format", b"nothing" * 9, SIGNED),
    ],
)
def test_what_cannot_be_read_is_not_signed(name: str, image: bytes, original: bytes) -> None:
    with pytest.raises(ImageUnavailable) as raised:
        signed(image, original, options(is_ingredient=True))
    assert raised.value.detail


def test_an_empty_manifest_of_the_original_does_not_hinder_signing() -> None:
    assert read_manifest(signed(JPEG, badly_signed(PNG), options(is_ingredient=True)), "jpeg").state == "Valid"


def test_nothing_is_downloaded_for_an_original() -> None:
    """Its XMP may name an address of a manifest, which the library would fetch by default, wherever it leads."""
    web = Web()
    with serve(web) as url:
        xmp = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{url}/manifest.c2pa"/>'
            "</rdf:RDF></x:xmpmeta>"
        )
        original = saved(gradient("RGB", (64, 48)), "jpeg", xmp=xmp.encode())
        assert read_manifest(signed(PNG, original, options(is_ingredient=True)), "png").state == "Valid"
    assert web.requests == []


def test_memory_is_granted_for_both_files() -> None:
    admitted: list[Cost] = []
    sign(as_blob(PNG), as_blob(JPEG), options(), DecodeLimits(0, enforce=admitted.append))
    (cost,) = admitted
    assert cost.memory == 4 * (len(PNG) + len(JPEG)) + 64 * 2**20
    with pytest.raises(NotGranted) as raised:
        sign(as_blob(PNG), as_blob(JPEG), options(), DecodeLimits(0, granted=1))
    assert raised.value.memory == cost.memory


# Certificates and keys


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("p256", "es256"), ("p384", "es384"), ("p521", "es512"), ("rsa", "ps256"), ("ed25519", "ed25519")],
)
def test_the_algorithm_is_that_of_the_key(kind: str, algorithm: str) -> None:
    who = credentials(kind)
    found = check(who.chain, who.pem(), NOW)
    assert (found["algorithm"], found["subject"]) == (algorithm, "CN=Signer,O=Test")
    assert abs(found["until"] - (NOW + timedelta(days=9)).timestamp()) < 3600
    assert read_manifest(signed(PNG, PNG, options(who, algorithm)), "png").state == "Valid"


@pytest.mark.parametrize("usage", ["1.3.6.1.4.1.62558.2.1", "1.3.6.1.5.5.7.3.36", "1.3.6.1.5.5.7.3.4"])
def test_a_certificate_for_claims_documents_or_mails_can_sign(usage: str) -> None:
    who = credentials(usages=[ObjectIdentifier(usage)])
    assert check(who.chain, who.pem(), NOW)["algorithm"] == "es256"


def test_a_key_in_an_older_form_is_turned_into_the_one_that_the_library_reads() -> None:
    assert check(WHO.chain, WHO.pem(PrivateFormat.TraditionalOpenSSL), NOW)["key"] == WHO.pem()


@dataclass(frozen=True)
class Wrong:
    """`who`: how the certificate is made; the rest replaces its parts."""

    name: str
    part: str
    reason: str
    who: dict[str, Any] = field(default_factory=dict)
    chain: Callable[[Credentials], str] = lambda who: who.chain
    key: Callable[[Credentials], str] = Credentials.pem


NO_CERTIFICATES, NO_KEY = "has no certificates that can be read, as PEM", "is no private key that can be read, as PEM"
WRONG = [
    Wrong("no certificates", "certificates", NO_CERTIFICATES, chain=lambda _: "sk-1"),
    Wrong("a certificate that is cut off", "certificates", NO_CERTIFICATES, chain=lambda who: who.chain[:200]),
    Wrong("the key in place of the certificates", "certificates", NO_CERTIFICATES, chain=Credentials.pem),
    Wrong("no key", "key", NO_KEY, key=lambda _: "sk-1"),
    Wrong("the certificates in place of the key", "key", NO_KEY, key=lambda who: who.chain),
    Wrong("a key with a password", "key", "is encrypted. Give it without a password, readable by this server only", key=Credentials.encrypted_pem),
    Wrong("the key of another certificate", "key", "is not the key of the first certificate in LIMNER_SIGN_CERTIFICATES", key=lambda _: credentials("p384").pem()),
    Wrong("a curve that C2PA does not know", "key", "is of a kind that C2PA does not know. It knows P-256, P-384, P-521, Ed25519 and RSA", {"kind": "k256"}),
    Wrong("a certificate that has ended", "certificates", " which is not now", {"ends": timedelta(hours=-1)}),
    Wrong("a certificate that has not begun", "certificates", " which is not now", {"begins": timedelta(days=2)}),
    Wrong("a certificate of a web server", "certificates", "and have an extended key usage for claims of C2PA, documents or e-mails", {"usages": [ExtendedKeyUsageOID.SERVER_AUTH]}),
]  # fmt: skip


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_what_cannot_sign_is_refused_with_a_reason(case: Wrong) -> None:
    who = credentials(**case.who)
    with pytest.raises(Refused) as raised:
        check(case.chain(who), case.key(who), NOW)
    assert raised.value.part == case.part
    assert case.reason in str(raised.value)
    assert "PRIVATE KEY" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        (WHO.pem(), {"algorithm": "es256", "subject": "CN=Signer,O=Test"}),
        ("sk-1", {"part": "key", "reason": "is no private key that can be read, as PEM"}),
    ],
)
def test_the_check_is_a_program(key: str, answer: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = io.TextIOWrapper(io.BytesIO(orjson.dumps({"certificates": WHO.chain, "key": key})))
    written = io.BytesIO()
    output = io.TextIOWrapper(written)
    monkeypatch.setattr(sys, "stdin", asked)
    monkeypatch.setattr(sys, "stdout", output)
    manifests.main()
    printed = orjson.loads(written.getvalue())
    assert answer.items() <= printed.items()
