"""How an operator writes headers, proxies and certificates, and what is refused before the start."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from app.config.settings import Settings
from app.config.validation import describe_errors
from tests.support.certificates import CERTIFICATE

BASE: dict[str, Any] = {"name": "main", "base_url": "https://main.example/v1", "api_key": "sk-main"}
NAME = "the name of a header, like X-Title"
TEXT = "a text on one line, without spaces at its ends"
OURS = "no header that Limner writes itself"
VALUE = 'a text, or { file = "/path" } for one that is secret'
PROXY = "the address of an HTTP proxy like http://user:password@proxy.example:3128, or none; SOCKS is not spoken"
FILE = "a text file that can be read and is not empty"
CERTIFICATES = "a file with certificates as PEM that can be read"


@dataclass(frozen=True, slots=True)
class Case:
    """`place`: what the line says is wrong, inside the table. `shown`: the value, if it may be shown."""

    name: str
    entry: dict[str, Any]
    place: str
    format: str
    shown: str = ""


CASES = (
    Case("a header with a space in its name", {"headers": {"X Title": "a"}}, ".headers.X Title", NAME),
    Case("a header without a name", {"headers": {"": "a"}}, ".headers.", NAME),
    Case("a header with a line break", {"headers": {"X-Title": "hunter2\r\nx: y"}}, ".headers.X-Title", TEXT),
    Case("an empty header", {"headers": {"X-Title": ""}}, ".headers.X-Title", TEXT),
    Case("a header with a space at its end", {"headers": {"X-Title": "hunter2 "}}, ".headers.X-Title", TEXT),
    Case("the key as a header", {"headers": {"Authorization": "Bearer hunter2"}}, ".headers.Authorization", f"{OURS}; the key belongs into `api_key`"),
    Case("the user agent as a header", {"headers": {"User-Agent": "hunter2"}}, ".headers.User-Agent", f"{OURS}; there is `user_agent` for it"),
    Case("the length of the body as a header", {"headers": {"content-length": "7"}}, ".headers.content-length", OURS),
    Case("a header twice", {"headers": {"X-Title": "hunter2", "x-title": "b"}}, ".headers", "each header once, in whatever spelling"),
    Case("a number as a header", {"headers": {"X-Title": 7}}, ".headers.X-Title", "a text"),
    Case("a header from nowhere", {"headers": {"X-Title": {"path": "hunter2"}}}, ".headers.X-Title", VALUE),
    Case("a header from a number", {"headers": {"X-Title": {"file": 7}}}, ".headers.X-Title", VALUE),
    Case("a header from a file that is not there", {"headers": {"X-Title": {"file": "/no/hunter2"}}}, ".headers.X-Title", FILE),
    Case("headers that are no JSON", {"headers": "X-Title: hunter2"}, ".headers", 'JSON like {"X-Title": "Limner"}'),
    Case("headers that are a list", {"headers": ["hunter2"]}, ".headers", "a table"),
    Case("a user agent on two lines", {"user_agent": "a\nb"}, ".user_agent", TEXT, " 'a\\nb'"),
    Case("a proxy that speaks SOCKS", {"proxy": "socks5://user:hunter2@h:1080"}, ".proxy", PROXY),
    Case("a proxy without a scheme", {"proxy": "hunter2:3128"}, ".proxy", PROXY),
    Case("a proxy with a path", {"proxy": "http://user:hunter2@h:3128/x"}, ".proxy", PROXY),
    Case("a proxy at no port", {"proxy": "http://user:hunter2@h:0"}, ".proxy", PROXY),
    Case("a proxy at a port that does not exist", {"proxy": "http://user:hunter2@h:99999"}, ".proxy", PROXY),
    Case("a proxy without a host", {"proxy": "http://user:hunter2@"}, ".proxy", PROXY),
    Case("a proxy with a space", {"proxy": "http://user:hun ter2@h"}, ".proxy", PROXY),
    Case("a user name with a colon", {"proxy": "http://us%3Aer:hunter2@h"}, ".proxy", PROXY),
    Case("two proxies", {"proxy": "http://user:hunter2@h", "proxy_file": "HERE/proxy"}, "", "either `proxy` or `proxy_file`"),
    Case("a file with a proxy that is not there", {"proxy_file": "/no/hunter2"}, ".proxy_file", FILE),
    Case("certificates that are not there", {"tls_ca": "/no/file"}, ".tls_ca", CERTIFICATES, " '/no/file'"),
    Case("certificates that are none", {"tls_ca": "HERE/proxy"}, ".tls_ca", CERTIFICATES, " 'HERE/proxy'"),
    Case("no time at all", {"timeout": 0}, ".timeout", "greater than 0", " 0"),
    Case("silence for ever", {"idle_timeout": 1e9}, ".idle_timeout", "less than or equal to 86400", " 1000000000.0"),
    Case("a stream now and then", {"stream": "sometimes"}, ".stream", "'auto', 'always' or 'never'", " 'sometimes'"),
    Case("images without bytes", {"max_images_bytes": "12"}, ".max_images_bytes", "greater than or equal to 1024", " '12'"),
    Case("downloads with a word", {"origin_downloads_with_key": "perhaps"}, ".origin_downloads_with_key", "true or false"),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_wrong_is_named_before_the_start(case: Case, tmp_path: Path) -> None:
    (tmp_path / "proxy").write_text("http://proxy.example:3128")
    entry = orjson.dumps([BASE | case.entry]).decode().replace("HERE", str(tmp_path))
    with pytest.raises(ValidationError) as caught:
        Settings(upstreams=entry)
    (line,) = describe_errors(caught.value)
    shown = case.shown.replace("HERE", str(tmp_path))
    assert line.startswith(f"LIMNER_UPSTREAMS[0]{case.place}: invalid value{shown} (format: {case.format}")
    assert "hunter2" not in line


TOML = """
[[upstreams]]
name = "main"
base_url = "https://main.example/v1"
api_key = "sk-main"
user_agent = "Mozilla/5.0"
proxy_file = "proxy"
tls_ca = "ca.pem"
timeout = 900
idle_timeout = 120
stream = "never"
max_images_bytes = "20MiB"
origin_downloads_with_key = false

[upstreams.headers]
HTTP-Referer = "https://gallery.example"
api-key = { file = "secret" }
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which Limner is started, with the files that the tables name."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("proxy", "http://u:hunter2@h:3128\n"), ("ca.pem", CERTIFICATE), ("secret", "hunter2\n")):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_table_says_how_an_upstream_is_reached(here: Path) -> None:
    (here / "limner.toml").write_text(TOML)
    settings = Settings()
    (entry,) = settings.effective_upstreams
    headers = {name: value.get_secret_value() for name, value in entry.headers.items()}
    assert headers == {"HTTP-Referer": "https://gallery.example", "api-key": "hunter2"}
    assert entry.proxy is not None
    assert entry.proxy.get_secret_value() == "http://u:hunter2@h:3128"
    assert (entry.tls_ca, entry.timeout, entry.idle_timeout, entry.stream) == (Path("ca.pem"), 900, 120, "never")
    assert (entry.user_agent, entry.max_images_bytes) == ("Mozilla/5.0", 20 * 2**20)
    assert entry.origin_downloads_with_key is False
    assert "hunter2" not in repr(settings) + str(settings.model_dump())


def test_a_single_upstream_is_described_by_variables(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", "https://main.example/v1")
    monkeypatch.setenv("LIMNER_UPSTREAM_HEADERS", '{"X-Title": "Limner", "api-key": {"file": "secret"}}')
    monkeypatch.setenv("LIMNER_UPSTREAM_PROXY_FILE", "proxy")
    settings = Settings()
    (entry,) = settings.effective_upstreams
    assert {name: value.get_secret_value() for name, value in entry.headers.items()} == {
        "X-Title": "Limner",
        "api-key": "hunter2",
    }
    assert settings.upstream_proxy is not None
    assert settings.upstream_proxy.get_secret_value() == "http://u:hunter2@h:3128"
    assert "hunter2" not in repr(settings) + str(settings.model_dump())


def test_headers_of_a_single_upstream_have_no_place_beside_a_list() -> None:
    with pytest.raises(ValidationError, match="LIMNER_UPSTREAM_HEADERS: set together with LIMNER_UPSTREAMS"):
        Settings(upstreams=[BASE], upstream_headers={"X-Title": "a"})


def test_a_wrong_header_of_a_single_upstream_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_UPSTREAM_HEADERS", '{"X-Title": "hunter2\\n"}')
    with pytest.raises(ValidationError) as caught:
        Settings(upstream_base_url="http://h/v1", upstream_proxy="socks5://u:hunter2@h")
    lines = describe_errors(caught.value)
    assert [line.partition(":")[0] for line in lines] == ["LIMNER_UPSTREAM_HEADERS", "LIMNER_UPSTREAM_PROXY"]
    assert "hunter2" not in str(lines)
