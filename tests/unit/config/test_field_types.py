"""How values are written, and which are refused. The error lines are in test_settings.py and test_error_lines.py."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from app.config import field_types
from app.config.field_types import (
    STANDARD_OUTPUT,
    BaseUrl,
    ClientKeyList,
    HeaderSecret,
    HeaderSecretFile,
    LedgerFile,
    ListenHost,
    LogLevel,
    ModelNameList,
    OriginList,
    OtlpEndpoint,
    Seconds,
    SecondsOrNever,
    ShrinkLimits,
    SigningCertificates,
    StateUrl,
    UpstreamUrl,
    is_loopback,
)
from app.images.input_limits import InputLimits

DIGEST = hashlib.sha256(b"sk-client").hexdigest()


@dataclass(frozen=True)
class Case:
    name: str
    kind: Any
    value: object
    parsed: object


READ = [
    Case("no shared state", StateUrl, "memory:", "memory:"),
    Case("a Redis", StateUrl, "rediss://:secret@h:1/2", "rediss://:secret@h:1/2"),
    Case("a Redis by its host name alone", StateUrl, "redis://h", "redis://h"),
    Case("a Valkey over TLS", StateUrl, "valkeys://[::1]:1", "valkeys://[::1]:1"),
    Case("a password with special characters", StateUrl, "redis://u:%40%2F@h/", "redis://u:%40%2F@h/"),
    Case("a certificate", StateUrl, f"rediss://h?ssl_ca_certs={__file__}&ssl_check_hostname=false", f"rediss://h?ssl_ca_certs={__file__}&ssl_check_hostname=false"),
    Case("a socket", StateUrl, "unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    Case("strings with spaces", ModelNameList, " a, b ,,", ("a", "b")),
    Case("strings that are a tuple already", ModelNameList, ("a",), ("a",)),
    Case("strings in a JSON list", ModelNameList, ' ["a", " b"]', ("a", "b")),
    Case("strings that only begin like a JSON list", ModelNameList, "[a],b", ("[a]", "b")),
    Case("a JSON list of other values", ModelNameList, "[1,2]", ("[1", "2]")),
    Case("an address with a slash at its end", BaseUrl, "http://h/v1/", "http://h/v1"),
    Case("an address between spaces", BaseUrl, " http://h/v1/\n", "http://h/v1"),
    Case("an address with escapes in its path", BaseUrl, "https://h:8443/a%20b/(c)", "https://h:8443/a%20b/(c)"),
    Case("an upstream with the endpoint of chat requests", UpstreamUrl, "https://h/v1/chat/completions", "https://h/v1"),
    Case("an upstream with the endpoint and a slash", UpstreamUrl, "https://h/v1/chat/completions/", "https://h/v1"),
    Case("an upstream with the endpoint in capitals", UpstreamUrl, "https://h/V1/Chat/Completions", "https://h/V1"),
    Case("an upstream with the endpoint behind two slashes", UpstreamUrl, "https://h/v1//chat/completions", "https://h/v1"),
    Case("an upstream with the endpoint and without a version", UpstreamUrl, "http://h:1/chat/completions", "http://h:1"),
    Case("an upstream whose path has a similar end", UpstreamUrl, "https://h/my-chat/completions-v1", "https://h/my-chat/completions-v1"),
    Case("an upstream with Azure's path of all models", UpstreamUrl, "https://h/models", "https://h/models"),
    Case("an upstream between spaces", UpstreamUrl, " https://h/v1\n", "https://h/v1"),
    Case("limits that are parsed already", ShrinkLimits, InputLimits(1, 2), InputLimits(1, 2)),
    Case("a key", HeaderSecret, "sk-1", SecretStr("sk-1")),
    Case("keys", ClientKeyList, "sk-1, sk-2", (SecretStr("sk-1"), SecretStr("sk-2"))),
    Case("a key by its digest", ClientKeyList, f"sha256:{DIGEST}", (SecretStr(f"sha256:{DIGEST}"),)),
    Case("keys on lines of their own", ClientKeyList, "sk-1\n\nsk-2,sk-3\n", (SecretStr("sk-1"), SecretStr("sk-2"), SecretStr("sk-3"))),
    Case("keys in a JSON list", ClientKeyList, '["sk-1", "sk-2"]', (SecretStr("sk-1"), SecretStr("sk-2"))),
    Case("no keys", ClientKeyList, "", ()),
    Case("a key that begins like the scheme of its header", HeaderSecret, "bearer-7b", SecretStr("bearer-7b")),
    Case("a key with a line break behind it", HeaderSecret, " sk-1\n", SecretStr("sk-1")),
    Case("a key with dollar signs", HeaderSecret, "$k-1$", SecretStr("$k-1$")),
    Case("a key that is secret already", HeaderSecret, SecretStr("sk-1"), SecretStr("sk-1")),
    Case("seconds without a unit", Seconds, "1.5", 1.5),
    Case("seconds with a unit", Seconds, "90s", 90.0),
    Case("half a minute", Seconds, " 0.5 MIN ", 30.0),
    Case("hours", Seconds, "2h", 7200.0),
    Case("a day", Seconds, "1d", 86_400.0),
    Case("a number of seconds", Seconds, 7, 7.0),
    Case("never", SecondsOrNever, "0", 0.0),
    Case("four minutes", SecondsOrNever, "4m", 240.0),
    Case("all addresses", ListenHost, "0.0.0.0", "0.0.0.0"),
    Case("all addresses of IPv6, in brackets", ListenHost, "[::]", "::"),
    Case("an address of one interface", ListenHost, "fe80::1%eth0", "fe80::1%eth0"),
    Case("a name of this machine", ListenHost, " Limner_1.internal ", "limner_1.internal"),
    Case("any origin", OriginList, "*", ("*",)),
    Case("origins as browsers write them", OriginList, "https://A.example/, http://b.example:80,https://c.example:8443", ("https://a.example", "http://b.example", "https://c.example:8443")),
    Case("origins of pages without a host of their own", OriginList, "null,app://obsidian.md,chrome-extension://abc", ("null", "app://obsidian.md", "chrome-extension://abc")),
    Case("a level by its short name", LogLevel, "WARN", "warning"),
    Case("a level in capitals", LogLevel, "INFO", "info"),
    Case("a ledger that does not exist yet", LedgerFile, "/tmp/ledger.jsonl", Path("/tmp/ledger.jsonl")),
    Case("a ledger on standard output", LedgerFile, "-", STANDARD_OUTPUT),
    Case("a collector", OtlpEndpoint, "http://127.0.0.1:4318/", "http://127.0.0.1:4318"),
]  # fmt: skip


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
def test_values_are_read(case: Case) -> None:
    assert TypeAdapter(case.kind).validate_python(case.value) == case.parsed


def test_a_key_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    assert TypeAdapter(HeaderSecretFile).validate_python(tmp_path / "key") == SecretStr("sk-1")


REFUSED = [
    ("an unknown kind of state", StateUrl, "memcached://h"),
    ("a Redis without a host", StateUrl, "redis:///0"),
    ("a Redis with a port that is too high", StateUrl, "redis://h:70000"),
    ("a Redis with a port in words", StateUrl, "redis://h:port"),
    ("a Redis with a database in words", StateUrl, "redis://h/main"),
    ("a password that ends the address", StateUrl, "redis://:a#b@h"),
    ("a password with a slash", StateUrl, "redis://:a/b@h"),
    ("a sentinel", StateUrl, "redis+sentinel://h:26379/main"),
    ("a cluster", StateUrl, "redis+cluster://a:1,b:2"),
    ("two servers", StateUrl, "redis://a:1,b:2"),
    ("a socket without a path", StateUrl, "unix://"),
    ("an unknown option", StateUrl, "redis://h?decode_responses=1"),
    ("an option of TLS without TLS", StateUrl, f"redis://h?ssl_ca_certs={__file__}"),
    ("a certificate that does not exist", StateUrl, "rediss://h?ssl_ca_certs=/no/such"),
    ("an unknown kind of verification", StateUrl, "rediss://h?ssl_cert_reqs=optional"),
    ("a key with a line break", HeaderSecret, "sk-1\r\nx-evil: 1"),
    ("a key with a space", HeaderSecret, "sk 1"),
    ("a key that no header can carry", HeaderSecret, "schlüssel"),
    ("a digest that is too short", ClientKeyList, f"sha256:{DIGEST[:-1]}"),
    ("a digest in capitals", ClientKeyList, f"sha256:{DIGEST.upper()}"),
    ("a digest with something behind it", ClientKeyList, f"sha256:{DIGEST}0"),
    ("a ledger in a folder that does not exist", LedgerFile, "/no/such/ledger.jsonl"),
    ("a ledger that is a folder", LedgerFile, "/tmp"),
    ("a ledger in quotation marks", LedgerFile, '"ledger.jsonl"'),
    ("a collector without a scheme", OtlpEndpoint, "127.0.0.1:4318"),
    ("a key in quotation marks", HeaderSecret, '"sk-1"'),
    ("a key in single quotation marks", HeaderSecret, "'sk-1'"),
    ("a list of keys in quotation marks", ClientKeyList, '"sk-1,sk-2"'),
    ("a variable in place of a key", HeaderSecret, "${API_KEY}"),
    ("a variable of a shell in place of a key", HeaderSecret, "$API_KEY"),
    ("a variable of Windows in place of a key", HeaderSecret, "%API_KEY%"),
    ("a template in place of a key", HeaderSecret, "{{api_key}}"),
    ("a gap in place of a key", HeaderSecret, "<your-key>"),
    ("a key with the scheme of its header", HeaderSecret, "Bearer sk-1"),
    ("the scheme of a header without a key", HeaderSecret, "Bearer "),
    ("a length of time in an unknown unit", Seconds, "3 weeks"),
    ("a length of time that is too long", Seconds, "2d"),
    ("no time", Seconds, "0s"),
    ("an address to listen on with a scheme", ListenHost, "http://127.0.0.1"),
    ("an address to listen on with a port", ListenHost, "127.0.0.1:8000"),
    ("an origin with a path", OriginList, "https://a.example/app"),
    ("an origin without a scheme", OriginList, "a.example"),
    ("an origin with a wildcard", OriginList, "https://*.a.example"),
    ("two addresses in place of one", BaseUrl, "https://a/v1,https://b/v1"),
    ("an address with an invisible character", BaseUrl, "https://h/v1\u200b"),
    ("an address with the end of a sentence", BaseUrl, "https://h/v1."),
    ("an address with a gap to fill", BaseUrl, "https://h/{tenant}/v1"),
    ("an address with a port that is too high", BaseUrl, "https://h:99999/v1"),
    ("an address with the port zero", BaseUrl, "https://h:0/v1"),
    ("an address in brackets that is none", BaseUrl, "https://[h/v1"),
    ("an upstream with a query", UpstreamUrl, "https://h/v1/chat/completions?api-version=1"),
    ("an upstream that is nothing but an endpoint", UpstreamUrl, "/chat/completions"),
    ("a file that does not exist", HeaderSecretFile, "/no/such"),
    ("a folder", HeaderSecretFile, "/"),
]


@pytest.mark.parametrize(("name", "kind", "value"), REFUSED, ids=[row[0] for row in REFUSED])
def test_wrong_values_are_refused(name: str, kind: Any, value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize("url", ["https://h/v1/responses", "https://h/v1/models", "https://h/v1/images/generations/", "https://h/v1/completions", "https://h/v1/messages", "https://h/v1beta/models/gemini:generateContent"])  # fmt: skip
def test_an_address_with_another_endpoint_is_refused_with_the_right_form(url: str) -> None:
    with pytest.raises(
        ValidationError, match=r"the address of the API without /.*, like https://api\.example\.com/v1; "
    ):
        TypeAdapter(UpstreamUrl).validate_python(url)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b" \n"])
def test_a_key_file_that_is_not_text_or_empty_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValidationError, match="a text file that can be read and is not empty"):
        TypeAdapter(HeaderSecretFile).validate_python(tmp_path / "key")


def test_a_collector_needs_a_package_that_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValidationError, match=r"pip install 'limner\[otel\]'"):
        TypeAdapter(OtlpEndpoint).validate_python("http://127.0.0.1:4318")


def test_signing_needs_packages_that_are_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TypeAdapter(SigningCertificates).validate_python(__file__) == Path(__file__)
    monkeypatch.setattr(field_types, "is_available", lambda: False)
    with pytest.raises(ValidationError, match=r"pip install 'limner\[c2pa\]'"):
        TypeAdapter(SigningCertificates).validate_python(__file__)


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.2", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.com", False)])  # fmt: skip
def test_a_host_is_loopback_or_not(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
