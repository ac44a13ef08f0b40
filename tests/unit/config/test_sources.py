"""Files of secrets and the configuration file: what they set, what has precedence, and what is wrong with them."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from app.config.settings import SECRETS, Settings
from app.config.validation import describe_errors
from app.config.variables import known_variables
from app.images.input_limits import InputLimits

URL = "https://variable.example/v1"
ENTRY = '[[upstreams]]\nname = "main"\nbase_url = "https://h/v1"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which Limner is started."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True, slots=True)
class Found:
    """`files` are in the folder where Limner is started."""

    name: str
    fields: dict[str, object]
    files: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


FOUND = [
    Found("an upstream key from a file", {"upstream_api_key": SecretStr("sk-1")}, {"key": "sk-1\n"}, {"UPSTREAM_API_KEY_FILE": "key"}),
    Found("client keys from a file, by line or comma", {"api_keys": (SecretStr("sk-1"), SecretStr("sk-2"), SecretStr("sk-3"))}, {"keys": "sk-1\r\n\nsk-2, sk-3\n"}, {"API_KEYS_FILE": "keys"}),
    Found("a bucket's key of several lines from a file", {"image_store_key": SecretStr('{"private_key":\n"sk-1"}')}, {"key": '{"private_key":\n"sk-1"}\n'}, {"IMAGE_STORE_KEY_FILE": "key"}),
    Found("a status key from a file", {"status_key": SecretStr("sk-1")}, {"key": "sk-1"}, {"STATUS_KEY_FILE": "key"}),
    Found("a file of a secret, named in .env", {"status_key": SecretStr("sk-1")}, {"key": "sk-1", ".env": "LIMNER_STATUS_KEY_FILE=key"}),
    Found("a file of a secret, named in the configuration file", {"status_key": SecretStr("sk-1"), "keys_file": None}, {"key": "sk-1", "limner.toml": 'status_key_file = "key"'}),
    Found("a variable names the file of a secret that limner.toml sets", {"status_key": SecretStr("sk-1")}, {"key": "sk-1", "limner.toml": 'status_key = "sk-2"'}, {"STATUS_KEY_FILE": "key"}),
    Found("limner.toml with numbers, booleans and texts", {"port": 9, "page": False, "log_level": "debug", "max_image_bytes": 2**21, "shrink_inputs": InputLimits(2**20, 9)}, {"limner.toml": 'port = 9\npage = false\nlog_level = "debug"\nmax_image_bytes = "2MiB"\nshrink_inputs = "1MiB,9"\n'}),
    Found("limner.toml with lists", {"models": ("a", "b"), "cors_origins": ("https://a",), "api_keys": (SecretStr("sk-1"),)}, {"limner.toml": 'models = ["a", "b"]\ncors_origins = ["https://a"]\napi_keys = ["sk-1"]\n'}),
    Found("lists as in variables", {"models": ("a", "b")}, {"limner.toml": 'models = "a, b"'}),
    Found("a file with another name", {"port": 9, "config": Path("ours.toml")}, {"ours.toml": "port = 9"}, {"CONFIG": "ours.toml"}),
    Found("a file that .env names", {"port": 9, "config": Path("ours.toml")}, {"ours.toml": "port = 9", ".env": "LIMNER_CONFIG=ours.toml"}),
    Found("an empty file", {"port": 8000, "config": Path("limner.toml")}, {"limner.toml": ""}),
    Found("no file", {"port": 8000, "config": None}),
    Found("a folder of that name", {"port": 8000, "config": None}, {"limner.toml/file": ""}),
    Found("the environment wins over .env", {"port": 1}, {".env": "LIMNER_PORT=2", "limner.toml": "port = 3"}, {"PORT": "1"}),
    Found(".env wins over the file", {"port": 2}, {".env": "LIMNER_PORT=2", "limner.toml": "port = 3"}),
    Found("a .env as PowerShell writes it", {"port": 2}, {".env": "\ufeffLIMNER_PORT=2\r\n".encode("utf-16-le").decode("latin-1")}),
    Found("files as Notepad writes them", {"port": 3, "status_key": SecretStr("sk-1")}, {"limner.toml": "\xef\xbb\xbfport = 3\r\n", "key": "\xef\xbb\xbfsk-1\r\n"}, {"STATUS_KEY_FILE": "key"}),
    Found("files as PowerShell writes them", {"port": 3, "status_key": SecretStr("sk-1")}, {"limner.toml": "\ufeffport = 3\r\n".encode("utf-16-le").decode("latin-1"), "key": "\ufeffsk-1\r\n".encode("utf-16-le").decode("latin-1")}, {"STATUS_KEY_FILE": "key"}),
    Found("an empty variable is unset", {"port": 3}, {"limner.toml": "port = 3"}, {"PORT": ""}),
]  # fmt: skip


def prepare(files: dict[str, str], variables: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode("latin-1"))
    for name, value in variables.items():
        monkeypatch.setenv(f"LIMNER_{name}", value)


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.name)
def test_settings_are_found_in_files(case: Found, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(case.files, case.variables | {"UPSTREAM_BASE_URL": URL}, folder, monkeypatch)
    settings = Settings()
    assert {name: getattr(settings, name) for name in case.fields} == case.fields
    assert "sk-" not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()


def test_the_upstream_may_be_in_the_file_alone(folder: Path) -> None:
    (folder / "limner.toml").write_text('upstream_base_url = "https://file.example/v1"')
    assert Settings().upstream_base_url == "https://file.example/v1"


@dataclass(frozen=True, slots=True)
class Wrong:
    """`lines` are the error lines, without the page that they end with."""

    name: str
    lines: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


UNREADABLE = "invalid value (format: a text file that can be read and is not empty)"
TOGETHER = "{0}_FILE: set together with {0}; one of them is enough"
WRONG = [
    *(Wrong(f"{name} twice", (TOGETHER.format(f"LIMNER_{name}"),), {"key": "sk-1"}, {name: "sk-1", f"{name}_FILE": "key"}) for name in ("UPSTREAM_API_KEY", "API_KEYS", "IMAGE_STORE_KEY", "STATUS_KEY")),
    Wrong("a secret in the environment, its file in .env", (TOGETHER.format("LIMNER_STATUS_KEY"),), {".env": "LIMNER_STATUS_KEY_FILE=key"}, {"STATUS_KEY": "sk-1"}),
    Wrong("a secret and its file in the configuration file", ("status_key_file in limner.toml: set together with status_key in limner.toml; one of them is enough",), {"key": "sk-1", "limner.toml": 'status_key = "sk-1"\nstatus_key_file = "key"'}),
    Wrong("a file of a secret that does not exist", (f"LIMNER_UPSTREAM_API_KEY_FILE: {UNREADABLE}",), {}, {"UPSTREAM_API_KEY_FILE": "/no/sk-1"}),
    Wrong("a folder instead of a file", (f"LIMNER_API_KEYS_FILE: {UNREADABLE}",), {}, {"API_KEYS_FILE": "/"}),
    Wrong("a secret that is not text", (f"LIMNER_STATUS_KEY_FILE: {UNREADABLE}",), {"key": "\xff\xfe"}, {"STATUS_KEY_FILE": "key"}),
    Wrong("an empty file of client keys", (f"LIMNER_API_KEYS_FILE: {UNREADABLE}",), {"key": "\n"}, {"API_KEYS_FILE": "key"}),
    Wrong("a number instead of a file", (f"status_key_file in limner.toml: {UNREADABLE}",), {"limner.toml": "status_key_file = 7"}),
    Wrong("an invalid key from a file", ("LIMNER_API_KEYS_FILE: invalid value (format: visible ASCII characters without spaces)",), {"key": "sk-1 sk-2"}, {"API_KEYS_FILE": "key"}),
    Wrong("unknown settings", ("limner.toml: unknown setting 'prot'", "limner.toml: unknown setting 'LIMNER_PORT'"), {"limner.toml": "port = 9\nprot = 9\nLIMNER_PORT = 9"}),
    Wrong("a configuration file that names another one", ("limner.toml: unknown setting 'config'",), {"limner.toml": 'config = "ours.toml"'}),
    Wrong("a wrong value in the file", ("port in limner.toml: invalid value 'x' (format: a whole number)",), {"limner.toml": 'port = "x"'}),
    Wrong("wrong values in the file and in a variable", ("LIMNER_PORT: invalid value 'x' (format: a whole number)", "workers in limner.toml: invalid value 0 (format: greater than or equal to 1)"), {"limner.toml": "port = 9\nworkers = 0"}, {"PORT": "x"}),
    Wrong("an allow list of numbers", ("fetch_allow in limner.toml: invalid value [7] (format: ",), {"limner.toml": "fetch_allow = [7]"}),
    Wrong("an invalid upstream key", ("upstream_api_key in limner.toml: invalid value (format: visible ASCII characters without spaces)",), {"limner.toml": 'upstream_api_key = "sk 1"'}),
    Wrong("a file that does not exist", ("/no/limner.toml: cannot be read: No such file or directory",), {}, {"CONFIG": "/no/limner.toml"}),
    Wrong("a file that is not TOML", ("limner.toml: is not TOML: Expected '=' after a key in a key/value pair (at line 2, column 8)",), {"limner.toml": "[[upstreams]]\napi_key: sk-1\n"}),
    Wrong("a file that is not text", ("limner.toml: is not UTF-8",), {"limner.toml": "\xff"}),
    Wrong("a .env that is not text", (".env: is not UTF-8",), {".env": "LIMNER_PORT=\xff"}),
    Wrong("a list in a named file, and a variable for one upstream", ("LIMNER_UPSTREAM_BASE_URL: set together with upstreams in ours.toml, where each upstream has its own",), {"ours.toml": ENTRY}, {"CONFIG": "ours.toml"}),
    Wrong("a list, and a model for a single upstream, in one file", ("upstream_model in ours.toml: set together with upstreams in ours.toml, where each upstream has its own",), {"ours.toml": f'upstream_model = "m"\n{ENTRY}'}, {"CONFIG": "ours.toml", "UPSTREAM_BASE_URL": ""}),
]  # fmt: skip


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.name)
def test_a_wrong_file_is_described_in_a_line(case: Wrong, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(case.files, {"UPSTREAM_BASE_URL": URL} | case.variables, folder, monkeypatch)
    with pytest.raises(ValidationError) as caught:
        Settings()
    lines = describe_errors(caught.value)
    for line, expected in zip(lines, case.lines, strict=True):
        assert line.startswith(expected)
        assert line.endswith(". See docs/settings.md")
        assert "\n" not in line
        assert "sk-" not in line


def test_an_allow_list_may_be_a_list_in_the_file(folder: Path) -> None:
    (folder / "limner.toml").write_text('fetch_allow = ["10.0.0.0/8", "images.example:81"]')
    expected = Settings(upstream_base_url=URL, fetch_allow="10.0.0.0/8,images.example:81").fetch_allow
    assert len(expected) == 2
    assert Settings(upstream_base_url=URL).fetch_allow == expected


def test_what_the_program_sets_wins_over_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`limner demo` has no client keys, whatever the operator's settings are."""
    (folder / "keys").write_text("sk-1")
    (folder / "limner.toml").write_text("port = 3")
    monkeypatch.setenv("LIMNER_API_KEYS_FILE", "keys")
    settings = Settings(upstream_base_url=URL, api_keys="", port=1)
    assert (settings.api_keys, settings.port) == ((), 1)
    assert settings.location("api_keys") == "LIMNER_API_KEYS"


def test_every_secret_may_come_from_a_file() -> None:
    secrets = {name for name, info in Settings.model_fields.items() if "SecretStr" in repr(info.annotation)}
    # Each header names a file of its own.
    assert set(SECRETS) == secrets - {"upstream_headers"}
    assert [name for name in known_variables() if name.endswith("_FILE")] == [
        "LIMNER_UPSTREAM_API_KEY_FILE",
        "LIMNER_UPSTREAM_PROXY_FILE",
        "LIMNER_API_KEYS_FILE",
        "LIMNER_KEYS_FILE",
        "LIMNER_WEBHOOK_SECRET_FILE",
        "LIMNER_SIGN_KEY_FILE",
        "LIMNER_FETCH_PROXY_FILE",
        "LIMNER_IMAGE_STORE_KEY_FILE",
        "LIMNER_STATUS_KEY_FILE",
    ]
