"""Callers are authenticated by the keys of the settings and of the key file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from app.access.auth import Authenticator
from app.access.keys import KeyFile
from app.errors import Unauthorized

DIGEST = f"sha256:{hashlib.sha256(b'sk-three').hexdigest()}"


@dataclass(frozen=True)
class Case:
    name: str
    headers: list[str]
    keys: tuple[str, ...] = ("sk-one", "sk-two")
    pass_through: bool = False
    refused: str | None = None
    azure: tuple[str, ...] = ()
    anthropic: tuple[str, ...] = ()


CASES = [
    Case("one of the keys", ["Bearer sk-two"]),
    Case("the scheme in lower case, spaces around the key", ["bearer   sk-one "]),
    Case("no key when keys are configured", [], refused="You didn't provide an API key"),
    Case("a wrong key", ["Bearer sk-three"], refused="Incorrect API key provided."),
    Case("a prefix of a key", ["Bearer sk-on"], refused="Incorrect API key provided."),
    Case("a key with a character added", ["Bearer sk-one1"], refused="Incorrect API key provided."),
    Case("a key configured as its digest", ["Bearer sk-three"], keys=("sk-one", DIGEST)),
    Case("a key configured as its digest, in capitals", ["Bearer sk-three"], keys=(f"SHA256:{DIGEST[7:]}",)),
    Case("the digest itself is no key", [f"Bearer {DIGEST}"], keys=(DIGEST,), refused="Incorrect API key provided."),
    Case(
        "the digits of the digest are no key",
        [f"Bearer {DIGEST[7:]}"],
        keys=(DIGEST,),
        refused="Incorrect API key provided.",
    ),
    Case("another scheme", ["Basic c2stb25l"], refused="Malformed Authorization header"),
    Case("a scheme without a key", ["Bearer "], refused="Malformed Authorization header"),
    Case("the scheme twice", ["Bearer Bearer sk-one"], refused="Malformed Authorization header"),
    Case("two headers, one of them right", ["Bearer sk-one", "Bearer x"], refused="Malformed Authorization header"),
    Case("a key that is not ASCII", ["Bearer schl\u00fcssel"], refused="Malformed Authorization header"),
    Case("a key with a control character", ["Bearer a\x01b"], refused="Malformed Authorization header"),
    Case("no key is needed when none is configured", [], keys=()),
    Case("a key that is not needed is accepted", ["Bearer x"], keys=()),
    Case("pass-through needs a key to pass on", [], keys=(), pass_through=True, refused="You didn't provide"),
    Case("a key in Azure's header", [], azure=("sk-two",)),
    Case("a wrong key in Azure's header", [], azure=("sk-three",), refused="Incorrect API key provided."),
    Case("two keys in Azure's header", [], azure=("sk-one", "sk-two"), refused="Malformed Authorization header"),
    Case("a key in each header: Authorization takes precedence", ["Bearer sk-one"], azure=("sk-three",)),
    Case("a key in Anthropic's header", [], anthropic=("sk-two",)),
    Case("a wrong key in Anthropic's header", [], anthropic=("sk-three",), refused="Incorrect API key provided."),
    Case("a key in both of these headers: Azure's counts", [], azure=("sk-one",), anthropic=("sk-three",)),
    Case("pass-through accepts any key", ["Bearer sk-mine"], keys=(), pass_through=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_requests_are_authenticated_by_their_key(case: Case) -> None:
    authenticator = Authenticator(case.keys, pass_through=case.pass_through)
    raw = [(b"authorization", value.encode("latin-1")) for value in case.headers]
    bare = (b"api-key", case.azure), (b"x-api-key", case.anthropic)
    headers = Headers(raw=raw + [(name, value.encode()) for name, values in bare for value in values])
    if case.refused is None:
        caller = authenticator.authenticate(headers)
        presented = [value.split()[1] for value in case.headers] + [*case.azure, *case.anthropic]
        assert caller.token == (presented[0] if presented else None)
        return
    with pytest.raises(Unauthorized, match=case.refused) as caught:
        authenticator.authenticate(headers)
    assert caught.value.status == 401
    assert caught.value.code == ("invalid_api_key" if "Incorrect" in case.refused else None)


def test_callers_are_distinguished_without_revealing_their_keys() -> None:
    authenticator = Authenticator((), pass_through=True)
    one, two = (authenticator.authenticate(Headers({"authorization": f"Bearer {key}"})) for key in ("sk-one", "sk-two"))
    assert one.id != two.id
    assert one.id == authenticator.authenticate(Headers({"authorization": "Bearer sk-one"})).id
    assert "sk-one" not in repr(one) + one.id


def table(name: str, key: str, more: str = "") -> str:
    return f'[[keys]]\nname = "{name}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n{more}\n'


@dataclass(frozen=True)
class FileKey:
    name: str
    key: str | None
    owner: str | None = None
    refused: str | None = None


FILE_KEYS = [
    FileKey("a key of the file", "sk-alice", "alice"),
    FileKey("another key of the file", "sk-bob", "bob"),
    FileKey("a key of the settings has no entry in the file", "sk-one"),
    FileKey("an expired key", "sk-old", refused="This API key has expired."),
    FileKey("a wrong key", "sk-carol", refused="Incorrect API key provided."),
    FileKey("no key", None, refused="You didn't provide an API key"),
]


@pytest.mark.parametrize("case", FILE_KEYS, ids=lambda case: case.name)
def test_keys_of_the_file_identify_their_owners(case: FileKey, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(
        table("alice", "sk-alice", "expires = 2999-01-01")
        + table("bob", "sk-bob")
        + table("old", "sk-old", "expires = 2020-01-01")
    )
    authenticator = Authenticator(["sk-one"], pass_through=False, key_file=KeyFile(file))
    headers = Headers({} if case.key is None else {"authorization": f"Bearer {case.key}"})
    if case.refused is None:
        caller = authenticator.authenticate(headers)
        assert (caller.name, caller.key and caller.key.name) == (case.owner, case.owner)
        return
    with pytest.raises(Unauthorized, match=case.refused) as caught:
        authenticator.authenticate(headers)
    assert caught.value.code == (None if case.key is None else "invalid_api_key")


def test_an_empty_key_file_rejects_every_key(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text("")
    authenticator = Authenticator((), pass_through=True, key_file=KeyFile(tmp_path / "keys.toml"))
    with pytest.raises(Unauthorized, match="Incorrect API key"):
        authenticator.authenticate(Headers({"authorization": "Bearer x"}))
