"""The pages over real HTTP: files, headers, and that markup, scripts and texts fit together."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import __version__
from app.api.pages import CONTENT_SECURITY_POLICY, WEB_DIR, server_info
from app.config.settings import Settings
from app.extraction.forms import FORMS
from app.extraction.urls import UrlKind
from app.protocol.image_request import PARAMETERS
from tests.support.raw_http import build_request, send_request
from tests.support.servers import RunningLimner, run_limner

NO_UPSTREAM = "http://127.0.0.1:9"
FILES = {path.relative_to(WEB_DIR).as_posix(): path.read_text() for path in sorted(WEB_DIR.rglob("*.*"))}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
HTML = {name: text for name, text in FILES.items() if name.endswith(".html")}

each_script = pytest.mark.parametrize("name", SCRIPTS)
each_page = pytest.mark.parametrize("name", HTML)


@pytest.fixture(scope="module")
def limner() -> Iterator[RunningLimner]:
    with run_limner(NO_UPSTREAM, api_keys="sk-client") as running:
        yield running


@pytest.fixture(scope="module")
def http(limner: RunningLimner) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=limner.url, trust_env=False) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Sent:
    name: str
    path: str
    media_type: str
    file: str


SENT = [
    Sent("the page, without a key", "/", "text/html; charset=utf-8", "index.html"),
    Sent("the status page, without a key", "/status", "text/html; charset=utf-8", "status.html"),
    Sent("the API reference, without a key", "/docs", "text/html; charset=utf-8", "openapi.html"),
    Sent("a script", "/web/main.js", "text/javascript; charset=utf-8", "main.js"),
    Sent("the style sheet", "/web/styles.css", "text/css; charset=utf-8", "styles.css"),
    Sent("the icon", "/web/icon.svg", "image/svg+xml", "icon.svg"),
    Sent("a text file one folder below", "/web/locales/en.js", "text/javascript; charset=utf-8", "locales/en.js"),
    Sent("a path with repeated slashes", "/web//main.js", "text/javascript; charset=utf-8", "main.js"),
]  # fmt: skip


@pytest.mark.parametrize("case", SENT, ids=lambda case: case.name)
def test_a_file_is_sent_with_its_media_type_and_security_headers(http: httpx.Client, case: Sent) -> None:
    answer = http.get(case.path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, case.media_type)
    assert answer.text == FILES[case.file]
    headers = {name: answer.headers[name] for name in ("cache-control", "content-security-policy", "referrer-policy")}
    assert headers == {
        "cache-control": "no-cache",
        "content-security-policy": CONTENT_SECURITY_POLICY,
        "referrer-policy": "no-referrer",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/", "/status", "/docs", "/web/main.js", "/web/server.json"])
def test_a_file_that_the_browser_has_is_not_sent_again(http: httpx.Client, path: str) -> None:
    etag = http.get(path).headers["etag"]
    assert re.fullmatch('"[0-9a-f]{32}"', etag)
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = http.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert again.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert http.get(path, headers={"if-none-match": '"other"'}).status_code == 200


def test_a_head_request_has_the_headers_of_a_get(http: httpx.Client) -> None:
    head, whole = http.head("/"), http.get("/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))


@pytest.mark.parametrize(
    "path",
    [
        "/web/nothing.js",
        "/web/",
        "/web/locales",
        "/web/locales/",
        "/web/..%2Fapi%2Fpages.py",
        "/web/locales/..%2F..%2Ferrors.py",
        "/web/sub/main.js",
        "/index.html",
    ],
)
def test_other_paths_are_not_found(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")


def test_a_host_header_with_a_path_changes_nothing(limner: RunningLimner) -> None:
    reply = send_request(limner.url, b"GET / HTTP/1.1\r\nhost: a.example:1\r\nx-forwarded-host: b/status?\r\n\r\n")
    assert reply.status == 200


@pytest.mark.parametrize(
    ("path", "location"), [("/status/", "../status"), ("/status//", "../../status"), ("/docs/", "../docs")]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_page_with_a_trailing_slash_is_redirected(
    limner: RunningLimner, path: str, location: str, method: str
) -> None:
    """The location is relative, so that it also works below a path of a proxy."""
    reply = httpx.request(method, limner.url + path, trust_env=False)
    assert (reply.status_code, reply.headers["location"]) == (308, location)
    assert str(reply.next_request.url) == limner.url + path.rstrip("/")  # type: ignore[union-attr]


def test_the_pages_can_be_switched_off() -> None:
    with run_limner(NO_UPSTREAM, page=False) as limner:
        paths = ("/", "/status", "/status/", "/docs", "/web/main.js", "/web/server.json")
        statuses = [send_request(limner.url, build_request(f"GET {path}")).status for path in paths]
    assert statuses == [404] * 6


@dataclass(frozen=True, slots=True)
class KeyKind:
    name: str
    settings: dict[str, Any]
    key: str


KEY_KINDS = [
    KeyKind("a server with client keys", {"upstream_api_key": "sk-upstream", "api_keys": "sk-client"}, "client"),
    KeyKind("a server that passes keys through", {}, "upstream"),
    KeyKind("a server that passes through only some keys", {"api_keys": "sk-client"}, "client"),
    KeyKind("an open server", {"upstream_api_key": "sk-upstream"}, "none"),
]  # fmt: skip


@pytest.mark.parametrize("case", KEY_KINDS, ids=lambda case: case.name)
def test_the_page_learns_which_kind_of_key_is_needed(case: KeyKind, tmp_path: Path) -> None:
    settings = Settings(upstream_base_url=NO_UPSTREAM, image_store=f"disk://{tmp_path}", **case.settings)
    assert server_info(settings)["key"] == case.key


def test_the_page_learns_the_rules_but_no_secret(http: httpx.Client) -> None:
    answer = http.get("/web/server.json")
    assert answer.json() == {
        "version": __version__,
        "key": "client",
        "max_image_bytes": 64 * 2**20,
        "size": {"multiple": 16, "min_edge": 16, "max_edge": 3840, "max_aspect_ratio": 3, "min_pixels": 655_360, "max_pixels": 8_294_400, "legacy": ["256x256", "512x512"]},
    }  # fmt: skip
    assert "sk-" not in answer.text


@each_page
def test_a_page_has_no_inline_code_and_no_files_of_other_servers(name: str) -> None:
    html = HTML[name]
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:|//[a-z]", html)
    assert not re.findall(r"<script(?![^>]*src=)", html)
    local = re.findall(r'(?:src|href)="([^"#]+)"', html)
    pages = {"./", "status", "docs", "openapi.json"}
    assert {link.removeprefix("web/") for link in local} - pages <= FILES.keys()


@each_script
def test_a_script_contacts_no_other_server_and_makes_no_markup_from_text(name: str) -> None:
    text = SCRIPTS[name].replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
    imported = re.findall(r'(?:from|import) "\./([^"]+)"', text)
    assert set(imported) <= SCRIPTS.keys()


@each_script
def test_a_script_is_short_and_begins_with_its_purpose(name: str) -> None:
    first, *rest = SCRIPTS[name].splitlines()
    assert re.fullmatch(r"// .+[.:]", first)
    assert len(rest) < 300
    assert all(len(line) <= 120 for line in rest)


def texts(language: str) -> dict[str, str]:
    found = re.findall(r'^ {2}"?([a-z0-9_-]+)"?: "(.*)",$', SCRIPTS[f"locales/{language}.js"], re.MULTILINE)
    assert len(found) == SCRIPTS[f"locales/{language}.js"].count("\n") - 4
    return dict(found)


def test_both_languages_have_the_same_texts_with_the_same_blanks() -> None:
    english, chinese = texts("en"), texts("zh")
    assert list(english) == list(chinese)
    for name, text in english.items():
        blanks = [sorted(re.findall(r"\{[a-z]+\}", each)) for each in (text, chinese[name])]
        assert blanks[0] == blanks[1], name


@each_page
def test_every_text_of_the_markup_can_be_translated(name: str) -> None:
    english = texts("en")
    marked = re.findall(r'data-i18n="([a-z_]+)"[^>]*>([^<]*)', HTML[name])
    labels = re.findall(
        r'data-i18n-(?:label|placeholder)="([a-z_]+)"\s+(?:aria-label|placeholder)="([^"]*)"', HTML[name]
    )
    assert marked
    for key, text in [*marked, *labels]:
        assert english[key].startswith(text.strip().rstrip(".")), key


def test_the_page_can_translate_every_word_about_a_pasted_reply() -> None:
    """One reason is missing: the page sends no input images, so a reply cannot repeat one."""
    extraction = WEB_DIR.parent / "extraction"
    judged = "".join((extraction / f"{name}.py").read_text() for name in ("forms", "filters"))
    reasons = re.findall(r'(?:rejection=|rejection = |reason = |_[A-Z]+ = |return "", |\("", )f?"([^"]+)"', judged)
    kinds_of_files = [reasons.pop(at) for at, each in enumerate(reasons) if "{kind.value}" in each]
    reasons += [kinds_of_files[0].replace("{kind.value}", kind.value) for kind in (UrlKind.VIDEO, UrlKind.OTHER_FILE)]
    pasted = (extraction / "explain.py").read_text().partition("\ndef text_report(")[0]
    kinds = re.findall(r'(?:return |_in_body\(|PastedReply\(|else )"([a-zA-Z ]+)"', pasted)
    translated = dict(re.findall(r'^ {2}"([^"]+)": "(\w+)",$', SCRIPTS["explainer.js"], re.MULTILINE))
    assert translated.keys() == {*reasons, *kinds} - {"the client itself had sent it"}
    english = texts("en")
    assert {words: english[name] for words, name in translated.items()} == {words: words for words in translated}


def test_every_text_is_used() -> None:
    code = "".join(text for name, text in FILES.items() if not name.startswith("locales/"))
    made = ("fact_", "form_", "error_", "status_", "size_", "step_", "circuit_", "key_", "image_", "docs_in_")
    unused = [
        key for key in texts("en") if not re.search(rf'["`]{re.escape(key)}["`]', code) and not key.startswith(made)
    ]
    assert not unused


def test_every_reply_form_has_a_name_in_words() -> None:
    assert {f"form_{form.name}" for form in FORMS} == {name for name in texts("en") if name.startswith("form_")}


def test_the_form_knows_the_limits_of_the_parameters() -> None:
    rows = {row.name: row.type for row in PARAMETERS}
    html = HTML["index.html"]
    assert f'maxlength="{rows["prompt"].maximum}"' in html  # type: ignore[attr-defined]
    assert f'id="count" type="number" inputmode="numeric" min="1" max="{rows["n"].maximum}"' in html  # type: ignore[attr-defined]
    assert f'"compression" type="number" inputmode="numeric" min="0" max="{rows["output_compression"].maximum}"' in html  # type: ignore[attr-defined]
    for name, field in (("quality", "quality"), ("output_format", "format")):
        offered = re.findall(rf'name="{field}" value="([a-z]+)"', html)
        assert set(offered) <= set(rows[name].values)  # type: ignore[attr-defined]
