"""Single settings: what variables set, and how a wrong one is described."""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.config.environment import set_variable, terminal_names
from app.config.field_types import variable
from app.config.settings import Settings
from app.config.upstreams import OFFICIAL_MODELS
from app.config.validation import describe_errors
from app.config.variables import unknown_variables
from app.images.input_limits import InputLimits
from app.protocol.size_fit import SizeMode

ROOT = Path(__file__).parents[3]
BASE = {"LIMNER_UPSTREAM_BASE_URL": "https://api.example.com/v1"}


@dataclass(frozen=True)
class Bad:
    name: str
    variables: dict[str, str]
    line: str
    secret: str = "sk-"


BAD = [
    Bad("nothing set", {"LIMNER_UPSTREAM_BASE_URL": ""}, "LIMNER_UPSTREAM_BASE_URL: required but not set"),
    Bad("no scheme", {"LIMNER_UPSTREAM_BASE_URL": "api.example.com"}, "LIMNER_UPSTREAM_BASE_URL: invalid value 'api.example.com' (format: an http(s) address"),
    Bad("a key in the address", {"LIMNER_UPSTREAM_BASE_URL": "https://u:sk-1@h/v1"}, "LIMNER_UPSTREAM_BASE_URL: invalid value (format"),
    Bad("a query in the address", {"LIMNER_PUBLIC_URL": "https://h/?a=b"}, "LIMNER_PUBLIC_URL: invalid value 'https://h/?a=b'"),
    Bad("an unknown dialect", {"LIMNER_UPSTREAM_DIALECT": "klingon"}, "LIMNER_UPSTREAM_DIALECT: invalid value 'klingon' (format: one of gpt-image-2-chat, metadata, words, "),
    Bad("a host with a port", {"LIMNER_ALLOWED_HOSTS": "h:80"}, "LIMNER_ALLOWED_HOSTS: invalid value 'h:80' (format: names or addresses without scheme and port, like images.example.com, or *: "),
    Bad("an unknown choice", {"LIMNER_REHOST": "maybe"}, "LIMNER_REHOST: invalid value 'maybe' (format: 'never', 'needed' or 'always')"),
    Bad("a port that is too high", {"LIMNER_PORT": "70000"}, "LIMNER_PORT: invalid value '70000'"),
    Bad("infinite seconds", {"LIMNER_UPSTREAM_TIMEOUT": "inf"}, "LIMNER_UPSTREAM_TIMEOUT: invalid value 'inf'"),
    Bad("zero attempts", {"LIMNER_UPSTREAM_ATTEMPTS": "0"}, "LIMNER_UPSTREAM_ATTEMPTS: invalid value '0'"),
    Bad("zero workers", {"LIMNER_WORKERS": "0"}, "LIMNER_WORKERS: invalid value '0'"),
    Bad("a word instead of bytes", {"LIMNER_MAX_IMAGE_BYTES": "big"}, "LIMNER_MAX_IMAGE_BYTES: invalid value 'big'"),
    Bad("an unknown store", {"LIMNER_IMAGE_STORE": "ftp://h"}, "LIMNER_IMAGE_STORE: invalid value 'ftp://h' (format: disk:///absolute/path, memory:, s3://"),
    Bad("a store with a key in its address", {"LIMNER_IMAGE_STORE": "s3://id:sk-1@bucket"}, "LIMNER_IMAGE_STORE: invalid value (format: s3://bucket/prefix"),
    Bad("an invalid allow list", {"LIMNER_FETCH_ALLOW": "10.0.0.0/99"}, "LIMNER_FETCH_ALLOW: invalid value '10.0.0.0/99'"),
    Bad("a spool folder that does not exist", {"LIMNER_SPOOL_DIR": "/no/such"}, "LIMNER_SPOOL_DIR: invalid value '/no/such' (format: a folder that exists"),
    Bad("half of the input limits", {"LIMNER_SHRINK_INPUTS": "20MB"}, "LIMNER_SHRINK_INPUTS: invalid value '20MB' (format: a size and a number of pixels, like 20MiB,4096, or never)"),
    Bad("input limits of zero", {"LIMNER_SHRINK_INPUTS": "0,4096"}, "LIMNER_SHRINK_INPUTS: invalid value '0,4096'"),
    Bad("a size mode that does not exist", {"LIMNER_SIZE": "1024x1024"}, "LIMNER_SIZE: invalid value '1024x1024' (format: native, exact, or exact; fit=contain)"),
    Bad("a key that would add a header", {"LIMNER_UPSTREAM_API_KEY": "sk-1\nx: y"}, "LIMNER_UPSTREAM_API_KEY: invalid value (format: visible ASCII characters without spaces)"),
    Bad("an invalid digest", {"LIMNER_API_KEYS": "sha256:sk-1"}, "LIMNER_API_KEYS: invalid value (format: a key, or sha256: and the 64"),
    Bad("keys that are separated by semicolons", {"LIMNER_API_KEYS": "sk-1;sk-2"}, "LIMNER_API_KEYS: invalid value (format: keys separated by commas or line breaks, not by semicolons)"),
    Bad("a key file that does not exist", {"LIMNER_UPSTREAM_API_KEY_FILE": "/no/such"}, "LIMNER_UPSTREAM_API_KEY_FILE: invalid value (format: a text file that can be read and is not empty)"),
    Bad("a secret that is too short", {"LIMNER_WEBHOOK_SECRET": "sk-short"}, "LIMNER_WEBHOOK_SECRET: invalid value (format: "),
    Bad("an address in quotation marks", {"LIMNER_UPSTREAM_BASE_URL": '"https://h/v1"'}, "LIMNER_UPSTREAM_BASE_URL: invalid value '\"https://h/v1\"' (format: an http(s) address without user name and query, like https://api.example.com/v1; leave out the quotation marks, which are a part of the value here)"),
    Bad("a key in quotation marks", {"LIMNER_UPSTREAM_API_KEY": "'sk-1'"}, "LIMNER_UPSTREAM_API_KEY: invalid value (format: visible ASCII characters without spaces; leave out the quotation marks"),
    Bad("one of several keys in quotation marks", {"LIMNER_API_KEYS": 'sk-1,"sk-2"'}, "LIMNER_API_KEYS: invalid value (format: visible ASCII characters without spaces; leave out the quotation marks"),
    Bad("a variable that nothing has replaced", {"LIMNER_UPSTREAM_API_KEY": "${API_KEY}"}, "LIMNER_UPSTREAM_API_KEY: invalid value (format: visible ASCII characters without spaces; this is a placeholder that nothing has replaced)"),
    Bad("a model in quotation marks, as docker run --env-file keeps them", {"LIMNER_UPSTREAM_MODEL": '"gpt-image-2"'}, "LIMNER_UPSTREAM_MODEL: invalid value '\"gpt-image-2\"' (format: a name in one line; leave out the quotation marks"),
    Bad("a secret in quotation marks", {"LIMNER_IMAGE_STORE_KEY": '"id:secret"'}, "LIMNER_IMAGE_STORE_KEY: invalid value (format: the key alone; leave out the quotation marks"),
    Bad("a model that is a variable", {"LIMNER_UPSTREAM_MODEL": "${MODEL}"}, "LIMNER_UPSTREAM_MODEL: invalid value '${MODEL}' (format: a name in one line; this is a placeholder"),
    Bad("a model in two lines", {"LIMNER_UPSTREAM_MODEL": "a\nb"}, "LIMNER_UPSTREAM_MODEL: invalid value 'a\\nb' (format: a name in one line)"),
    Bad("one of several models in quotation marks", {"LIMNER_MODELS": "a,'b'"}, "LIMNER_MODELS: invalid value \"'b'\" (format: a name in one line; leave out the quotation marks"),
    Bad("the port of a Service, which Kubernetes sets", {"LIMNER_PORT": "tcp://10.0.0.1:8000"}, "LIMNER_PORT: invalid value 'tcp://10.0.0.1:8000' (format: a whole number; Kubernetes sets it for a Service of this name, unless the pod has enableServiceLinks: false)"),
    Bad("a comment behind the value", {"LIMNER_MAX_QUEUE": "10 # ten"}, "LIMNER_MAX_QUEUE: invalid value '10 # ten' (format: a whole number; leave out the comment, which is a part of the value here)"),
    Bad("a key with the scheme of its header", {"LIMNER_UPSTREAM_API_KEY": "Bearer sk-1"}, "LIMNER_UPSTREAM_API_KEY: invalid value (format: visible ASCII characters without spaces; leave out the word Bearer, which Limner writes itself)"),
    Bad("a host with a scheme", {"LIMNER_HOST": "http://0.0.0.0"}, "LIMNER_HOST: invalid value 'http://0.0.0.0' (format: an address or a name of this machine, like 127.0.0.1, 0.0.0.0 or ::; the port is LIMNER_PORT)"),
    Bad("an origin with a path", {"LIMNER_CORS_ORIGINS": "https://a.example/app"}, "LIMNER_CORS_ORIGINS: invalid value 'https://a.example/app' (format: origins without a path, like https://app.example.com, or *)"),
    Bad("listening to others with an upstream key", {"LIMNER_UPSTREAM_API_KEY": "sk-1", "LIMNER_HOST": "0.0.0.0"}, "LIMNER_API_KEYS: unset, while LIMNER_HOST=0.0.0.0"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_a_wrong_variable_is_described_in_one_line(case: Bad, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**BASE, **case.variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    (line,) = describe_errors(caught.value)
    assert line.startswith(case.line)
    assert line.endswith("See docs/settings.md")
    assert case.secret not in line
    assert "\n" not in line


def test_each_wrong_variable_has_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LIMNER_PORT": "x", "LIMNER_REHOST": "y"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    names = [line.partition(":")[0] for line in describe_errors(caught.value)]
    assert sorted(names) == ["LIMNER_PORT", "LIMNER_REHOST", "LIMNER_UPSTREAM_BASE_URL"]


@dataclass(frozen=True)
class Good:
    name: str
    variables: dict[str, str]
    fields: dict[str, object] = field(default_factory=dict)


GOOD = [
    Good("the defaults", {}, {"upstream_model": "gpt-image-2-chat", "upstream_timeout": 600, "upstream_attempts": 3, "max_image_bytes": 64 * 2**20, "max_request_bytes": 256 * 2**20, "port": 8000, "host": "127.0.0.1", "cors_origins": ("*",), "upstream_api_key": None}),
    Good("an address with a slash at its end", {"LIMNER_UPSTREAM_BASE_URL": "http://h:1/v1/"}, {"upstream_base_url": "http://h:1/v1"}),
    Good("lists with spaces", {"LIMNER_MODELS": " a, b ,,"}, {"models": ("a", "b")}),
    Good("words in capitals", {"LIMNER_LOG_LEVEL": "WARNING", "LIMNER_LOG_FORMAT": "JSON", "LIMNER_REHOST": " Never"}, {"log_level": "warning", "log_format": "json", "rehost": "never"}),
    Good("times with a unit", {"LIMNER_UPSTREAM_TIMEOUT": "15m", "LIMNER_KEEPALIVE_AFTER": "90s"}, {"upstream_timeout": 900, "keepalive_after": 90}),
    Good("bytes with a unit", {"LIMNER_MAX_IMAGE_BYTES": "2MiB"}, {"max_image_bytes": 2 * 2**20}),
    Good("limits of input images", {"LIMNER_SHRINK_INPUTS": "5MiB, 2048"}, {"shrink_inputs": InputLimits(5 * 2**20, 2048)}),
    Good("no limit of input images", {"LIMNER_SHRINK_INPUTS": "Never"}, {"shrink_inputs": InputLimits(None, None)}),
    Good("exact sizes", {"LIMNER_SIZE": "exact"}, {"size": SizeMode.COVER}),
    Good("exact sizes with padding", {"LIMNER_SIZE": "exact, fit=contain"}, {"size": SizeMode.CONTAIN}),
    Good("empty means unset", {"LIMNER_PORT": "", "LIMNER_API_KEYS": ""}, {"port": 8000, "api_keys": ()}),
    Good("an upstream key on loopback only", {"LIMNER_UPSTREAM_API_KEY": "sk-1", "LIMNER_HOST": "::1"}),
    Good("an upstream key behind client keys", {"LIMNER_UPSTREAM_API_KEY": "sk-1", "LIMNER_HOST": "0.0.0.0", "LIMNER_API_KEYS": "a,b"}),
    Good("an upstream key that anyone may spend on purpose", {"LIMNER_UPSTREAM_API_KEY": "sk-1", "LIMNER_HOST": "0.0.0.0", "LIMNER_ALLOW_ANONYMOUS": "true"}),
    Good("pass-through from anywhere", {"LIMNER_HOST": "0.0.0.0"}),
]  # fmt: skip


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_variables_set_settings(case: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**BASE, **case.variables}.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert {name: getattr(settings, name) for name in case.fields} == case.fields


TWO = [
    {"name": "any", "base_url": "http://any", "model": "m"},
    {"name": "few", "base_url": "http://few", "models": {"a": "x", "b": "x"}},
]


@dataclass(frozen=True)
class Listed:
    name: str
    models: str
    upstream: str | None
    names: tuple[str, ...]
    listed: tuple[str, ...]


LISTED = [
    Listed("all models of the upstreams", "", None, (), (*OFFICIAL_MODELS, "m", "a", "b")),
    Listed("all models of an upstream for any name", "", "any", (), (*OFFICIAL_MODELS, "m")),
    Listed("all models of an upstream with a map alone", "", "few", (), ("a", "b")),
    Listed("models of the settings", "c, a, a", None, (), ("c", "a")),
    Listed("models of the settings that one upstream has", "c, a", "few", (), ("a",)),
    Listed("models of a key instead of the settings", "c", None, ("d", "a"), ("d", "a")),
    Listed("models of a key that its upstream has", "c", "few", ("d", "a"), ("a",)),
    Listed("a key for models that its upstream does not have", "", "few", ("d",), ()),
]


@pytest.mark.parametrize("case", LISTED, ids=lambda case: case.name)
def test_which_models_are_listed(case: Listed) -> None:
    settings = Settings(upstreams=TWO, models=case.models)
    assert settings.list_models(case.upstream, case.names) == case.listed


def test_the_upstreams_model_is_listed_beside_the_official_ones() -> None:
    models = Settings(upstream_base_url="http://h", upstream_model="dall-e-3").list_models()
    assert len(models) == len(set(models))
    assert "gpt-image-2" in models


@pytest.mark.parametrize(("state_home", "folder"), [("/var/state", "/var/state"), ("", "/home/u/.local/state")])
def test_kept_images_live_in_the_state_folder(state_home: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", state_home)
    monkeypatch.setenv("HOME", "/home/u")
    assert Settings(upstream_base_url="http://h").image_store == f"disk://{folder}/limner/images"


def test_a_dot_env_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("LIMNER_UPSTREAM_BASE_URL=http://from-file\nOTHER=1\n")
    assert Settings().upstream_base_url == "http://from-file"


def test_the_documented_default_of_the_input_limits_is_the_default() -> None:
    documented = re.search(r"\| `LIMNER_SHRINK_INPUTS` \| `(.+?)` \|", (ROOT / "docs" / "settings.md").read_text())
    assert documented
    settings = Settings(upstream_base_url="http://h")
    assert Settings(upstream_base_url="http://h", shrink_inputs=documented[1]) == settings


def test_a_spool_folder_that_exists(tmp_path: Path) -> None:
    assert Settings(upstream_base_url="http://h", spool_dir=tmp_path).spool_dir == tmp_path


def test_keys_are_not_shown() -> None:
    settings = Settings(upstream_base_url="http://h", upstream_api_key="sk-upstream", api_keys="sk-client")
    assert "sk-" not in repr(settings) + str(settings.model_dump())
    assert [key.get_secret_value() for key in settings.api_keys] == ["sk-client"]


def test_misspelled_variables_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("LIMNER_API_KEY=x\nLIMNER_HOST=h\nOTHER=1\n")
    for name in ("LIMNER_PROT", "LIMNER_PORT"):
        monkeypatch.setenv(name, "1")
    assert unknown_variables() == ["LIMNER_API_KEY", "LIMNER_PROT"]


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_has_a_description(field: str) -> None:
    description = Settings.model_fields[field].description
    assert description
    assert description.endswith(".")
    assert variable(field) == f"LIMNER_{field.upper()}"


def test_the_names_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("TERM_PROGRAM", "iTerm.app")
    assert terminal_names() == ("xterm-256color", "iTerm.app")
    monkeypatch.delenv("TERM")
    monkeypatch.setenv("TERM_PROGRAM", "")
    assert terminal_names() == ()


def test_child_processes_see_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEN_BY_CHILDREN", "")
    set_variable("SEEN_BY_CHILDREN", "yes")
    assert subprocess.check_output(["printenv", "SEEN_BY_CHILDREN"], text=True) == "yes\n"
