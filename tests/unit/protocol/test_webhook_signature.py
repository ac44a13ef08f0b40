"""Webhooks are signed as the libraries of Standard Webhooks verify them."""

import base64

import pytest

from app.protocol.webhook_signature import derive_secret, parse_secret, signed_headers, write_secret

SECRET = b"0123456789abcdef01234567"


def test_a_signature_is_that_of_the_public_libraries() -> None:
    # The example with which the libraries of Svix and of Standard Webhooks test themselves.
    secret = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert signed_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}') == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_secret_is_written_as_it_is_read(size: int) -> None:
    secret = bytes(range(size))
    assert parse_secret(write_secret(secret)) == secret
    assert write_secret(secret).startswith("whsec_")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="no text"),
        pytest.param("whsec_", id="nothing behind the prefix"),
        pytest.param(base64.b64encode(SECRET).decode(), id="no prefix"),
        pytest.param("whsec_" + base64.b64encode(SECRET[:23]).decode(), id="too few bytes"),
        pytest.param("whsec_" + base64.b64encode(SECRET * 3).decode(), id="too many bytes"),
        pytest.param("whsec_not base64, though it is long enough for it", id="no base64"),
    ],
)
def test_what_is_no_secret_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="expected whsec_ and 24 to 64 bytes in base64") as caught:
        parse_secret(text)
    assert not text or text not in str(caught.value).removeprefix("expected whsec_")


def test_a_derived_secret_depends_on_root_and_caller_only() -> None:
    secrets = {derive_secret(root, caller) for root in (b"one", b"two") for caller in ("a", "b")}
    assert len(secrets) == 4
    assert derive_secret(b"one", "a") in secrets
    assert {len(secret) for secret in secrets} == {32}
