"""Every server finds the same secret for the webhooks of a key, without having stored one."""

import hashlib
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from app.access.auth import Authenticator
from app.access.keys import KeyFile
from app.access.webhook_secrets import WebhookSecrets
from app.protocol.webhook_signature import write_secret

OWN = bytes(range(32))


def authenticator(folder: Path) -> Authenticator:
    tables = [("shop", "sk-shop", ""), ("own", "sk-own", f'webhook_secret = "{write_secret(OWN)}"')]
    text = "".join(
        f'[[keys]]\nname = "{name}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n{line}\n'
        for name, key, line in tables
    )
    (folder / "keys.toml").write_text(text)
    digest = f"sha256:{hashlib.sha256(b'sk-digest').hexdigest()}"
    return Authenticator(["sk-plain", digest], pass_through=False, key_file=KeyFile(folder / "keys.toml"))


def caller(authenticator: Authenticator, key: str) -> str:
    return authenticator.authenticate(Headers({"authorization": f"Bearer {key}"})).id


@pytest.mark.parametrize("root", [None, b"a secret of all servers"], ids=["from the digests", "from a secret"])
def test_each_key_has_a_secret_that_all_servers_find(root: bytes | None, tmp_path: Path) -> None:
    one, other = (WebhookSecrets(authenticator(tmp_path), root) for _ in range(2))
    callers = [caller(one.authenticator, key) for key in ("sk-shop", "sk-own", "sk-plain", "sk-digest")]
    found = [one.find(each) for each in callers]
    assert found == [other.find(each) for each in callers]
    assert len(set(found)) == 4
    assert None not in found
    assert found[1] == OWN
    assert [one.secret_of(key) for key in one.authenticator.known_keys()] == found


def test_a_secret_of_all_servers_replaces_the_digests(tmp_path: Path) -> None:
    keys = authenticator(tmp_path)
    digests, root = WebhookSecrets(keys, None), WebhookSecrets(keys, b"a secret of all servers")
    shop, own = caller(keys, "sk-shop"), caller(keys, "sk-own")
    assert digests.find(shop) != root.find(shop)
    assert digests.find(own) == root.find(own)


def test_a_caller_without_a_key_of_this_server_needs_a_secret_of_the_server() -> None:
    keys = Authenticator([], pass_through=True)
    assert WebhookSecrets(keys, None).find("0123456789abcdef") is None
    assert WebhookSecrets(keys, b"a secret of all servers").find("0123456789abcdef") is not None
