"""Images are stored in buckets: of a real S3 server, and of imitations of Google's and Azure's."""

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from obstore.exceptions import GenericError
from obstore.store import S3Store
from pydantic import SecretStr

from app.errors import ImageUnavailable, ServiceUnavailable
from app.images.blob import Blob
from app.images.bucket import BucketLocation, BucketStore, describe_error, parse_bucket_url
from app.images.store import StoreConfig
from tests.support.fake_clouds import Clouds
from tests.support.seaweedfs import RunningWeed
from tests.support.servers import RunningDemo, run_limner
from tests.support.store_fixtures import AZURE_KEY, DAY, PNG, put, read, service_account

NAME = "a" * 32 + ".png"


@dataclass(frozen=True, slots=True)
class Url:
    name: str
    url: str
    location: BucketLocation


LOCATIONS = [
    Url("a bucket", "s3://pictures", BucketLocation("s3", "pictures", None, {}, None, None, False)),
    Url("a prefix", "gs://pictures/a/b/", BucketLocation("gs", "pictures", "a/b", {}, None, None, False)),
    Url("all options of S3", "s3://b/p?endpoint=http://minio:9000/&region=eu-1&public=https://cdn&sweep=true", BucketLocation("s3", "b", "p", {"region": "eu-1"}, "http://minio:9000/", "https://cdn", True)),
    Url("an account of Azure", "az://b?account=limner", BucketLocation("az", "b", None, {"account_name": "limner"}, None, None, False)),
]  # fmt: skip


@pytest.mark.parametrize("case", LOCATIONS, ids=lambda case: case.name)
def test_the_url_of_a_bucket_is_parsed(case: Url) -> None:
    assert parse_bucket_url(case.url) == case.location


BAD_URLS = ["s3://", "s3://key:word@bucket", "s3://bucket#x", "s3://bucket?word=x", "s3://bucket?sweep=1", "s3://bucket?endpoint=minio:9000", "s3://bucket?public=https://u:word@h"]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_invalid_url_is_rejected_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix") as caught:
        parse_bucket_url(url)
    assert "word" not in str(caught.value)


BAD_KEYS = [
    ("s3", "no-colon-in-the-secret", "LIMNER_IMAGE_STORE_KEY is not of the form access_key_id:secret_access_key"),
    ("az", "no-colon-in-the-secret", "LIMNER_IMAGE_STORE_KEY is not of the form account_name:account_key"),
    ("az", "limner:", "LIMNER_IMAGE_STORE_KEY is not of the form account_name:account_key"),
    ("az", "account:no base64, this secret", "Failed to decode|base64|Invalid"),
    ("gs", '{"private_key": "a secret"', "Unable to decode service account"),
    ("gs", service_account().replace("BEGIN PRIVATE", "BEGIN secret"), "Error reading pem file"),
]


@pytest.mark.parametrize(("scheme", "key", "reason"), BAD_KEYS)
def test_an_invalid_key_is_reported_at_the_start(scheme: str, key: str, reason: str) -> None:
    with pytest.raises(OSError, match=reason) as caught:
        BucketStore(StoreConfig(f"{scheme}://pictures", DAY, key=SecretStr(key)))
    assert "secret_access_key" in reason or "secret" not in str(caught.value)


def test_a_large_image_is_uploaded_in_parts_and_never_held_in_memory(s3_store: StoreConfig) -> None:
    class WatchedBlob(Blob):
        read: int = 0
        largest: int = 0

        def read_at(self, offset: int, size: int) -> bytes:
            data = super().read_at(offset, size)
            self.read, self.largest = self.read + len(data), max(self.largest, len(data))
            return data

    store = BucketStore(s3_store)
    assert (asyncio.run(store.get("../x")), read(store, NAME)) == (None, None)
    with WatchedBlob() as blob:
        for number in range(13):
            blob.write(bytes([number]) * 2**20)
        name = asyncio.run(store.put(blob, PNG))
        assert (blob.read, blob.largest) == (13 * 2**20, 5 * 2**20)
    assert read(store, name) == b"".join(bytes([number]) * 2**20 for number in range(13))


def test_a_failed_upload_leaves_no_image(s3_store: StoreConfig) -> None:
    class ClosedBlob(Blob):
        def read_at(self, offset: int, size: int) -> bytes:
            if offset:
                raise ValueError("I/O operation on closed file")
            return super().read_at(offset, size)

    with ClosedBlob() as blob:
        blob.write(b"x" * 11 * 2**20)
        with pytest.raises(ImageUnavailable) as caught:
            asyncio.run(BucketStore(s3_store).put(blob, PNG))
    assert "closed file" in str(caught.value.detail)
    assert names(s3_store) == []


def names(config: StoreConfig) -> list[str]:
    """Return the names of all objects below the prefix of the store."""
    remote: Any = BucketStore(config)._remote
    return sorted(meta["path"] for page in remote.list() for meta in page)


def test_only_stored_images_are_deleted_and_only_if_the_url_demands_it(s3_store: StoreConfig) -> None:
    later = replace(s3_store, ttl=0.5, now=lambda: 4e9)
    store = BucketStore(replace(later, url=f"{later.url}&sweep=true"))
    put(store, b"x")
    asyncio.run(store._remote.put_async("holiday.png", b"x"))
    assert asyncio.run(BucketStore(later).delete_expired()) == 0
    assert len(names(s3_store)) == 2
    assert asyncio.run(store.delete_expired()) == 1
    assert names(s3_store) == ["holiday.png"]
    assert asyncio.run(store.delete_expired()) == 0


def test_clients_may_reach_the_bucket_at_another_address(s3_store: StoreConfig, weed: RunningWeed) -> None:
    """The public address is the same server by another name. The signature covers that name."""
    public = weed.endpoint.replace("127.0.0.1", "localhost")
    store = BucketStore(replace(s3_store, url=f"{s3_store.url}&public={public}"))
    name = put(store, b"image")
    link = asyncio.run(store.url_for(name))
    assert link is not None
    assert link.startswith(f"{public}/pictures/")
    assert httpx.get(link, trust_env=False).content == b"image"
    assert httpx.get(link.replace(name, NAME), trust_env=False).status_code == 403


@pytest.mark.parametrize(("ttl", "expires"), [(60.0, "60"), (DAY, "86400")])
def test_a_presigned_url_is_valid_as_long_as_the_image(s3_store: StoreConfig, ttl: float, expires: str) -> None:
    link = asyncio.run(BucketStore(replace(s3_store, ttl=ttl)).url_for(NAME))
    assert parse_qs(urlsplit(str(link)).query)["X-Amz-Expires"] == [expires]


@dataclass(frozen=True, slots=True)
class Failure:
    name: str
    url: str
    key: str
    reason: str
    secrets: tuple[str, ...] = field(default=("secret",))


FAILURES = [
    Failure("a refused connection", "s3://pictures?endpoint=http://127.0.0.1:9", "limner:a-secret-of-tests", "error sending request"),
    Failure("a wrong secret", "s3://pictures?endpoint=WEED", "limner:another-secret", "SignatureDoesNotMatch"),
    Failure("an unknown key", "s3://pictures?endpoint=WEED", "nobody:a-secret-of-tests", "InvalidAccessKeyId"),
    Failure("a key that may only read", "s3://pictures?endpoint=WEED", "guest:another-secret", "AccessDenied"),
    Failure("Google is down", "gs://pictures?endpoint=CLOUDS", service_account(disable_oauth=True), "503 Service Unavailable", ("PRIVATE KEY",)),
    Failure("Azure is down and repeats the key", "az://pictures?endpoint=CLOUDS", AZURE_KEY, "unavailable: [key]", (b64encode(b"a secret").decode()[:8],)),
]  # fmt: skip


@pytest.fixture
def without_retries(monkeypatch: pytest.MonkeyPatch, clouds: tuple[str, Clouds]) -> Iterator[None]:
    """Disable retries, and let the clouds be down."""
    monkeypatch.setattr("app.images.bucket._RETRIES", {"max_retries": 0})
    clouds[1].down = AZURE_KEY.partition(":")[2]
    yield
    clouds[1].down = ""


@pytest.mark.usefixtures("without_retries")
@pytest.mark.parametrize("case", FAILURES, ids=lambda case: case.name)
def test_a_failure_is_reported_with_its_reason_and_without_the_secret(
    case: Failure, weed: RunningWeed, clouds: tuple[str, Clouds]
) -> None:
    url = case.url.replace("WEED", weed.endpoint).replace("CLOUDS", clouds[0]) + "&sweep=true"
    store = BucketStore(StoreConfig(url, DAY, key=SecretStr(case.key)))
    with pytest.raises(ImageUnavailable) as not_stored:
        put(store, b"x")
    errors: list[ImageUnavailable | ServiceUnavailable] = [not_stored.value]
    assert case.reason in str(not_stored.value.detail)
    if "guest" not in case.key:
        for work in (store.get(NAME), store.delete_expired(), store._read(NAME, 0, 1)):
            with pytest.raises(ServiceUnavailable) as unreachable:
                asyncio.run(work)
            errors.append(unreachable.value)
    for error in errors:
        assert not [secret for secret in case.secrets if secret in f"{error.message}{error.detail}"]
        assert len(str(error.detail)) < 600
        assert "\n\n" not in str(error.detail)
        assert urlsplit(url).netloc not in error.message


def test_a_url_that_cannot_be_signed_is_an_error(s3_store: StoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signing fails when the credentials of a role cannot be fetched."""

    async def fail(*_: object) -> str:
        raise GenericError("no role, and the key is: a-secret-of-tests\n\nDebug source:\ninternals")

    monkeypatch.setattr("app.images.bucket.sign_async", fail)
    with pytest.raises(ImageUnavailable) as caught:
        asyncio.run(BucketStore(s3_store).url_for(NAME))
    assert caught.value.code == "image_not_kept"
    assert caught.value.detail == "LIMNER_IMAGE_STORE: no role, and the key is: [key]"
    assert asyncio.run(BucketStore(replace(s3_store, serve="proxy")).url_for(NAME)) is None


TOKEN = "IQoJb3JpZ2luX2VjEJ7" + "aB3/+x9=" * 30
ERRORS = [
    f"403: <CanonicalRequest>PUT\nhost:h\nx-amz-security-token:{TOKEN}\nx-amz-date:1</CanonicalRequest>",
    f"error sending request for url (https://sts.h/?Action=AssumeRoleWithWebIdentity&WebIdentityToken={TOKEN})",
    f"https://h/a.png?X-Amz-Security-Token={TOKEN}&X-Amz-Signature=c0ffee is not reached",
    f'cannot read {{"Token": "{TOKEN[:40]}", "SecretAccessKey": "{TOKEN[40:80]}"}}',
    f"Authorization: Bearer {TOKEN[:60]}",
    f"x-amz-security-token:{TOKEN[:60]}",
    f"unexpected: {TOKEN}?",
]


@pytest.mark.parametrize("text", ERRORS)
def test_credentials_that_only_the_library_knows_are_redacted(text: str) -> None:
    logged = describe_error(GenericError(text), ())
    assert not [start for start in range(0, len(TOKEN) - 16, 8) if TOKEN[start : start + 16] in logged]
    assert "c0ffee" not in logged
    assert "[key]" in logged


def test_text_without_secrets_is_logged_unchanged() -> None:
    text = "Generic S3 error: Error performing PUT http://127.0.0.1:9/pictures/a/AAAA.png in 9ms: Connection refused"
    assert describe_error(GenericError(text), ()) == text


def test_the_key_of_the_settings_takes_precedence_over_the_environment(
    s3_store: StoreConfig, monkeypatch: pytest.MonkeyPatch, weed: RunningWeed
) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    store = BucketStore(s3_store)
    assert read(store, put(store, b"image")) == b"image"


def test_without_a_configured_key_that_of_the_environment_is_used(
    s3_store: StoreConfig, monkeypatch: pytest.MonkeyPatch, weed: RunningWeed
) -> None:
    identity, _, secret = weed.key.partition(":")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", identity)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    store = BucketStore(replace(s3_store, key=None))
    assert read(store, put(store, b"image")) == b"image"


def generate(demo: RunningDemo, config: StoreConfig, **options: Any) -> tuple[str, bytes, str, str]:
    """Generate an image and fetch it without a key. Returns its URL, bytes and media type, and the server's address."""
    more = {"image_store": config.url, "image_store_key": config.key, **options}
    body = {"prompt": "a fox", "response_format": "url", **more.pop("request", {})}
    with run_limner(demo.url, **more) as limner:
        answer = httpx.post(f"{limner.url}/v1/images/generations", json=body, trust_env=False, timeout=30)
        url = answer.json()["data"][0]["url"]
        if url.startswith("data:"):
            return url, b"", "", limner.url
        image = httpx.get(url, trust_env=False)
        assert image.status_code == 200
        return url, image.content, image.headers["content-type"], limner.url


@dataclass(frozen=True, slots=True)
class Rehost:
    """`location`: the server that the image is fetched from."""

    name: str
    options: dict[str, Any]
    location: str


JPEG = {"output_format": "jpeg"}
REHOST = [
    Rehost("an image whose URL only this server can reach is stored", {"rehost": "needed"}, "bucket"),
    Rehost("a converted image has no URL and is stored", {"rehost": "needed", "request": JPEG}, "bucket"),
    Rehost("everything is stored", {"rehost": "always"}, "bucket"),
    Rehost("everything is stored, and served by this server", {"rehost": "always", "store_serve": "proxy"}, "limner"),
    Rehost("nothing is stored, the upstream's URL is returned", {"rehost": "never"}, "upstream"),
    Rehost("an image inside the reply is stored", {"rehost": "needed", "upstream_model": "data-url"}, "bucket"),
    Rehost("an image inside the reply is returned as a data URL", {"rehost": "never", "upstream_model": "data-url"}, "data"),
]  # fmt: skip


@pytest.mark.parametrize("case", REHOST, ids=lambda case: case.name)
def test_which_images_are_stored_and_where_they_are_fetched(
    case: Rehost, demo: RunningDemo, s3_store: StoreConfig, weed: RunningWeed
) -> None:
    """The URL alone gives access to the image."""
    url, data, media_type, limner = generate(demo, s3_store, **case.options)
    prefixes = {
        "upstream": demo.url,
        "bucket": f"{weed.endpoint}/pictures/",
        "limner": f"{limner}/kept/",
        "data": "data:",
    }
    assert url.startswith(prefixes[case.location])
    kind = "jpeg" if "request" in case.options else "png"
    if case.location == "data":
        assert url.startswith("data:image/png;base64,")
    else:
        assert media_type == f"image/{kind}"
        assert data.startswith({"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff"}[kind])
        assert urlsplit(url).path.endswith({"png": ".png", "jpeg": ".jpg"}[kind])
    assert len(names(s3_store)) == (case.location in {"bucket", "limner"})


def test_an_image_that_cannot_be_stored_is_an_error_that_clients_do_not_retry(demo: RunningDemo) -> None:
    options = {"image_store": "s3://pictures?endpoint=http://127.0.0.1:9", "image_store_key": "limner:a-secret"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.images.bucket._RETRIES", {"max_retries": 0})
        with run_limner(demo.url, rehost="always", **options) as limner:
            body = {"prompt": "a fox", "response_format": "url"}
            answer = httpx.post(f"{limner.url}/v1/images/generations", json=body, trust_env=False, timeout=30)
            missing = httpx.get(f"{limner.url}/kept/{NAME}", trust_env=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "image_not_kept")
    assert answer.headers["x-should-retry"] == "false"
    assert (missing.status_code, missing.json()["error"]["code"]) == (503, "image_store_unavailable")
    assert "127.0.0.1" not in answer.text + missing.text


def test_a_bucket_is_connected_by_the_library_of_its_provider(s3_store: StoreConfig) -> None:
    remote = BucketStore(s3_store)._remote
    assert isinstance(remote, S3Store)
    assert remote.prefix == urlsplit(s3_store.url).path.strip("/")
