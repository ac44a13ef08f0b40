"""Which candidates are accepted, in which spelling, and why the others are not."""

import io

import pybase64
import pytest
from PIL import Image

from app.extraction.base64_runs import Base64Run
from app.extraction.filters import CandidateFilter
from app.extraction.own_links import ClientTexts
from tests.support.image_files import PNG

BASE64 = pybase64.b64encode_as_string(PNG)
HEAD = "data:image/png;base64,"
URL = "https://a.example/x.png"


def pixel() -> str:
    """Encode a PNG of a single pixel."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return pybase64.b64encode_as_string(file.getvalue())


@pytest.mark.parametrize(
    ("value", "url"),
    [
        (" //a.example/x.png", URL),
        (Base64Run("", BASE64), HEAD + BASE64),
        (Base64Run("data:image/jpeg;base64,", BASE64), HEAD + BASE64),
        (Base64Run("data:;base64, ", BASE64.rstrip("=")), HEAD + BASE64),
        (Base64Run(HEAD, BASE64[:40] + "\\r\\n" + BASE64[40:]), HEAD + BASE64),
    ],
)
def test_an_accepted_url_is_normalized(value: str | Base64Run, url: str) -> None:
    assert CandidateFilter(()).check(value) == (url, "")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("sandbox:/x.png", "no http"),
        ("https://your-image-url/x.png", "is none"),
        ("https://a.example/x.mp4", "a video"),
        ("https://a.example/x.zip", "not an image"),
        (Base64Run(HEAD, "!"), "not base64"),
        (Base64Run("data:image/svg+xml,", BASE64), "not base64"),
        (Base64Run(HEAD, "aGVsbG8="), "no image"),
        (Base64Run(HEAD, BASE64[:200]), "cut off"),
        (Base64Run(HEAD, pixel()), "single pixel"),
    ],
)
def test_a_rejected_candidate_has_a_reason(value: str | Base64Run, reason: str) -> None:
    url, rejection = CandidateFilter(()).check(value)
    assert not url
    assert reason in rejection


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (URL, URL),
        ("https://a.example/x y.png", "https://a.example/x%20y.png#z"),
        (HEAD + BASE64, Base64Run(HEAD, BASE64)),
        (f"data:image/x;base64,{BASE64.rstrip('=')}", Base64Run("", BASE64)),
        (f"Give this a hat: {BASE64}!", Base64Run(HEAD, BASE64)),
        (f"Give {HEAD}{BASE64[:76]}\n{BASE64[76:]} a hat", Base64Run("", BASE64)),
        ("Give the cat of https://a.example/x.png, a hat", URL),
        ("Give the cat of HTTP://A.example/x.png. a hat", URL),
        ("Give the cat of a.example/x.png a hat", URL),
        ("![cat](https://a.example/x.png)", URL),
        ("https:\\/\\/a.example\\/x.png", URL),
        ("https%253A%252F%252Fa.example%252Fx.png", URL),
        ("https://a.example/x.png?a=1&b=2", "https://a.example/x.png?a=1&amp;b=2"),
        ("https://a.example/x.png?signature=1", URL),
        (URL, "https://a.example/x.png?w=512"),
        ("https://a.example/r/7f and https://a.example/r/7", "https://a.example/r/7"),
        ("https://a.example/图/x.png", "https://a.example/%E5%9B%BE/x.png"),
    ],
)
def test_an_image_that_the_client_sent_is_rejected(sent: str, value: str | Base64Run) -> None:
    assert CandidateFilter([sent]).check(value) == ("", "the client itself had sent it")


@pytest.mark.parametrize(
    "url", ["http://..", "http://./", "https://*", "http://&", "http://%2F", "http://%20", "http://%2e"]
)
def test_an_address_without_a_host_is_compared_too(url: str) -> None:
    """Nothing is left of it that could be found in the texts of the client, and the search has to end."""
    assert not ClientTexts(["a red/blue fox, as in https://e.com/a.png"]).has_link(url)


@pytest.mark.parametrize(
    "sent",
    [
        "https://a.example/y.png",
        "data:,x",
        HEAD + "A" * len(BASE64),
        HEAD + "A" * (len(BASE64) + 1),
        "https://a.example/x.png/y and https://not-a.example/x.png",
        "https://a.example/x.pngs",
        "a fox",
        HEAD + "A" * 40,
        "https://b.example/%2525252541",
    ],
)
def test_an_image_that_the_client_sent_does_not_reject_another(sent: str) -> None:
    candidate_filter = CandidateFilter([sent])
    assert candidate_filter.check(URL) == (URL, "")
    assert candidate_filter.check(Base64Run(HEAD, BASE64)) == (HEAD + BASE64, "")
