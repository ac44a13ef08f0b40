"""Images are signed in processes of their own; what goes wrong there is an error with a reason, and no other image suffers."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import ImageUnavailable
from app.images import signer as signer_module
from app.images.blob import Blob
from app.images.signer import InvalidSigner, Signer, SigningKey, is_available, load_signing_key
from app.images.transcode import Transcoder
from tests.support.decoders import decoders_of, template_of
from tests.support.sample_images import as_blob, as_bytes, gradient, saved
from tests.support.servers import serve
from tests.support.signing import TimeStampAuthority, Web, credentials, genuinely_signed, read_manifest

PNG, JPEG = (saved(gradient("RGB", (64, 48)), name) for name in ("png", "jpeg"))
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    settings = credentials().write(tmp_path_factory.mktemp("certificates"))
    return load_signing_key(settings["sign_certificates"], settings["sign_key"])


@pytest.fixture
def signer(key: SigningKey) -> Iterator[Signer]:
    made = Signer(key, version="1.2.3")
    yield made
    made.close()


def failure(signer: Signer, image: Blob, original: Blob) -> str:
    with pytest.raises(ImageUnavailable) as raised:
        asyncio.run(signer.sign(image, original, is_ingredient=True))
    return raised.value.detail or ""


def test_a_key_is_known_by_its_certificate(key: SigningKey) -> None:
    assert (key.algorithm, key.subject) == ("es256", "CN=Signer,O=Test")
    assert "PRIVATE" not in repr(key)


@pytest.mark.parametrize("is_in_file", [False, True])
def test_an_image_is_signed(signer: Signer, is_in_file: bool) -> None:
    def blob(data: bytes) -> Blob:
        made = Blob(in_memory=0 if is_in_file else 1 << 20)
        made.write(data)
        return made

    signer.start()
    with blob(JPEG) as image, blob(genuinely_signed(PNG, "png")) as original:
        with asyncio.run(signer.sign(image, original, is_ingredient=True)) as made:
            found = read_manifest(as_bytes(made), "jpeg")
        assert (found.state, found.parents, found.generator["version"]) == ("Valid", ("Upstream",), "1.2.3")
        with asyncio.run(signer.sign(image, original, is_masked=True)) as made:
            assert read_manifest(as_bytes(made), "jpeg").actions == ("c2pa.created", "c2pa.edited", "c2pa.transcoded")


@LINUX
def test_images_are_signed_where_none_is_decoded(signer: Signer) -> None:
    transcoder = Transcoder(decoders=2)

    async def sign_and_convert(image: Blob, original: Blob) -> None:
        (await signer.sign(image, original)).close()
        (await transcoder.convert(image, image_format="png")).close()

    with as_blob(JPEG) as image, as_blob(PNG) as original:
        asyncio.run(sign_and_convert(image, original))
    for pool, signs in ((signer._pool, True), (transcoder._pool, False)):
        maps = [Path(f"/proc/{pid}/maps").read_text() for pid in decoders_of(template_of(pool))]
        assert any("libc2pa" in each for each in maps) is signs
    transcoder.close()


def test_what_cannot_be_signed_says_why_and_does_not_hinder_the_next(signer: Signer) -> None:
    with as_blob(JPEG) as image, as_blob(b"\x89PNG\r\n\x1a\n") as original, as_blob(PNG) as good:
        assert "could not be parsed" in failure(signer, image, original)
        asyncio.run(signer.sign(image, good)).close()


def test_more_memory_than_there_is_is_not_asked_for(key: SigningKey) -> None:
    signer = Signer(key, version="1.2.3", memory=2**20)
    with as_blob(JPEG) as image, as_blob(PNG) as original:
        assert failure(signer, image, original).endswith("bytes are more than LIMNER_IMAGE_MEMORY permits")
    signer.close()


def test_a_time_stamp_is_asked_for_where_the_operator_wants_it(key: SigningKey, tmp_path: Path) -> None:
    web = Web(TimeStampAuthority(tmp_path).answer)
    with serve(web) as url, as_blob(JPEG) as image, as_blob(PNG) as original:
        signer = Signer(key, version="1.2.3", timestamps=f"{url}/stamp")
        with asyncio.run(signer.sign(image, original)) as made:
            found = read_manifest(as_bytes(made), "jpeg")
        signer.close()
    assert (found.state, web.requests) == ("Valid", ["/stamp"])
    assert found.time is not None
    assert abs(datetime.fromisoformat(found.time) - datetime.now(UTC)) < timedelta(hours=1)


def test_an_authority_that_answers_something_else_leaves_the_image_unsigned(key: SigningKey) -> None:
    with serve(Web(lambda _: b"no time stamp")) as url, as_blob(JPEG) as image, as_blob(PNG) as original:
        signer = Signer(key, version="1.2.3", timestamps=url)
        assert failure(signer, image, original)
        signer.close()


def test_an_authority_that_does_not_answer_in_time_leaves_the_image_unsigned(key: SigningKey) -> None:
    signer = Signer(key, version="1.2.3", seconds=0.0)
    with as_blob(JPEG) as image, as_blob(PNG) as original:
        assert failure(signer, image, original) == "no reply within 0.0 s"
    signer.close()


def test_certificates_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "chain.der"
    path.write_bytes(b"\xff\x00")
    for each in (path, tmp_path / "nowhere"):
        with pytest.raises(InvalidSigner, match=r"^LIMNER_SIGN_CERTIFICATES: is no text file that can be read$"):
            load_signing_key(each, "")


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    settings = credentials().write(tmp_path)
    with pytest.raises(InvalidSigner, match=r"^LIMNER_SIGN_KEY: is no private key that can be read, as PEM$"):
        load_signing_key(settings["sign_certificates"], "sk-1")


def test_a_library_that_does_not_work_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = credentials().write(tmp_path)
    monkeypatch.setattr(signer_module, "_CHECK", "raise ImportError('libc2pa_c.so: wrong ELF class')")
    with pytest.raises(InvalidSigner, match=r"does not work here: ImportError: libc2pa_c.so: wrong ELF class"):
        load_signing_key(settings["sign_certificates"], settings["sign_key"])


def test_the_extra_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_available()
    monkeypatch.setattr(signer_module, "find_spec", lambda name: None)
    assert not is_available()
