"""What can be handed on, in which spelling, and why the rest cannot."""

import io

import pybase64
import pytest
from PIL import Image

from app.extraction.base64_runs import Base64Run
from app.extraction.filters import CandidateFilter
from tests.unit.protocol.test_data_url import CASES

PNG = CASES[0].data
BASE64 = pybase64.b64encode_as_string(PNG)
HEAD = "data:image/png;base64,"
URL = "https://a.example/x.png"


def pixel() -> str:
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
def test_an_image_gets_its_one_spelling(value: str | Base64Run, url: str) -> None:
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
def test_what_is_no_image_has_a_reason(value: str | Base64Run, reason: str) -> None:
    url, why_not = CandidateFilter(()).check(value)
    assert not url
    assert reason in why_not


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (URL, URL),
        ("https://a.example/x y.png", "https://a.example/x%20y.png#z"),
        (HEAD + BASE64, Base64Run(HEAD, BASE64)),
        (f"data:image/x;base64,{BASE64.rstrip('=')}", Base64Run("", BASE64)),
    ],
)
def test_what_the_client_sent_is_no_result(sent: str, value: str | Base64Run) -> None:
    assert CandidateFilter([sent]).check(value) == ("", "the client itself had sent it")


@pytest.mark.parametrize(
    "sent", ["https://a.example/y.png", "data:,x", HEAD + "A" * len(BASE64), HEAD + "!" * len(BASE64)]
)
def test_what_the_client_sent_does_not_stand_in_the_way_of_another(sent: str) -> None:
    judge = CandidateFilter([sent])
    assert judge.check(URL) == (URL, "")
    assert judge.check(Base64Run(HEAD, BASE64)) == (HEAD + BASE64, "")
