"""No key and no prompt appears in a log line or a response, whatever happens to a request."""

import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import orjson
import pytest
import structlog
from pydantic import ValidationError

from app.access.auth import Caller
from app.config.settings import Settings
from app.config.validation import describe_errors
from app.observability.logging import configure_logging
from tests.support.sample_images import noise, saved
from tests.support.servers import RunningLimner, run_demo, run_limner

UPSTREAM_KEY, CLIENT_KEY, OWN_KEY, WRONG_KEY = "sk-upstream-5fd1", "sk-client-8ac2", "sk-own-93be", "sk-wrong-17e0"
PROMPT = "a heron that nobody is to know of"
SECRETS = (UPSTREAM_KEY, CLIENT_KEY, OWN_KEY, WRONG_KEY, "heron")


@pytest.fixture(params=["json", "console"])
def log_lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Collect all log lines at debug level."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(request.param, "debug", stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@dataclass(frozen=True)
class Scenario:
    name: str
    model: str = "gpt-image-2-chat"
    more: tuple[tuple[str, Any], ...] = ()
    key: str = CLIENT_KEY


SCENES = [
    Scenario("a picture"),
    Scenario("a link", more=(("response_format", "url"),)),
    Scenario("a stream", more=(("stream", True),)),
    Scenario("several", more=(("n", 3),)),
    Scenario("a wrong key", key=WRONG_KEY),
    Scenario("a wrong size", more=(("size", "9x9"),)),
    Scenario("a wrong value", more=(("quality", "best"),)),
    Scenario("an unknown parameter", more=(("whatever", PROMPT),)),
    Scenario("a prompt that is none", more=(("prompt", [PROMPT]),)),
    Scenario("a link that may not be fetched", more=(("images", ["http://10.0.0.1/a.png"]),)),
    *(Scenario(model, model) for model in ("data-url", "missing-image-9", "cut-image-9", "redirects-9")),
    *(Scenario(model, model) for model in ("refuses", "refuses-400", "says-nothing", "not-an-image", "echoes-input")),
    *(Scenario(model, model) for model in ("error-400", "error-401", "error-429", "error-500", "html-502", "error-in-200")),
    *(Scenario(model, model) for model in ("broken-json", "nothing")),
    *(Scenario(f"{model}, streamed", model, (("stream", True),)) for model in ("stalls-9", "breaks-after-url", "error-500", "refuses")),
]  # fmt: skip


def run_scenario(limner: RunningLimner, scene: Scenario) -> str:
    """Run one scenario and return everything that the client receives."""
    body = {"prompt": PROMPT, "size": "1024x640", **dict(scene.more)}
    url = f"{limner.url}/v1/images/{'edits' if 'images' in body else 'generations'}"
    headers = {"authorization": f"Bearer {scene.key}"}
    answer = httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False)
    return f"{answer.status_code} {answer.headers} {answer.text}"


@contextmanager
def start_limners(pass_through: bool) -> Iterator[Callable[[str], RunningLimner]]:
    """Run one server for each model name, which chooses the behavior of the upstream, in front of one upstream."""
    own: dict[str, Any] = {"upstream_api_key": None} if pass_through else {"upstream_api_key": UPSTREAM_KEY, "api_keys": CLIENT_KEY}  # fmt: skip
    hurry: dict[str, Any] = {"upstream_attempts": 2, "upstream_idle_timeout": 0.5, "fetch_timeout": 0.5}
    with ExitStack() as stack:
        demo = stack.enter_context(run_demo(api_key=OWN_KEY if pass_through else UPSTREAM_KEY))
        yield cache(lambda model: stack.enter_context(run_limner(demo.url, upstream_model=model, **own, **hurry)))


def leaks(text: str) -> list[str]:
    return [line[:500] for line in text.splitlines() if any(secret in line for secret in SECRETS)]


@pytest.mark.parametrize("log_lines", ["json"], indirect=True)
def test_a_run_of_all_kinds_reveals_no_secret(log_lines: io.StringIO) -> None:
    with start_limners(pass_through=False) as limner:
        answers = [run_scenario(limner(scene.model), scene) for scene in SCENES]
    assert {answer[:3] for answer in answers} >= {"200", "400", "401", "429", "500"}
    assert not leaks("\n".join(answers))
    assert log_lines.getvalue().count("request_id") >= len(SCENES)
    assert not leaks(log_lines.getvalue())


@pytest.mark.parametrize("key", [OWN_KEY, WRONG_KEY])
def test_the_callers_own_key_is_passed_on_and_not_revealed(log_lines: io.StringIO, key: str) -> None:
    scenes = [Scenario("", model, key=key) for model in ("gpt-image-2-chat", "error-401", "error-403", "error-500", "refuses")]  # fmt: skip
    with start_limners(pass_through=True) as limner:
        answers = [run_scenario(limner(scene.model), scene) for scene in scenes]
    assert answers[0].startswith("200" if key == OWN_KEY else "401")
    assert not leaks("\n".join(answers))
    assert not leaks(log_lines.getvalue())


def test_an_edit_and_a_bug_reveal_no_secret(log_lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack trace has files and lines, but no values of variables."""
    form = {"prompt": PROMPT}
    headers = {"authorization": f"Bearer {CLIENT_KEY}"}
    files = {"image": ("heron.png", saved(noise((64, 64)), "PNG"), "image/png")}
    with start_limners(pass_through=False) as limner:
        url = f"{limner('gpt-image-2-chat').url}/v1/images/edits"
        answers = [httpx.post(url, data=form, files=files, headers=headers, trust_env=False)]

        def raise_bug(*_: object, **__: object) -> None:
            question = f"{PROMPT} {UPSTREAM_KEY}"
            raise RuntimeError(f"a bug, {len(question)} letters long")

        monkeypatch.setattr("app.upstream.client.UpstreamClient._build", raise_bug)
        answers.append(httpx.post(url, data=form, files=files, headers=headers, trust_env=False))
        monkeypatch.setattr("app.access.auth._fingerprint", raise_bug)
        answers.append(httpx.post(url, data=form, files=files, headers=headers, trust_env=False))
    assert [answer.status_code for answer in answers] == [200, 500, 500]
    assert log_lines.getvalue().count("Traceback") == len(re.findall("bug, [0-9]+ letters", log_lines.getvalue())) == 2
    assert not leaks(log_lines.getvalue() + "".join(answer.text for answer in answers))
    assert "a bug" not in "".join(answer.text for answer in answers)


def test_settings_show_no_key() -> None:
    settings = Settings(upstream_base_url="http://h", upstream_api_key=UPSTREAM_KEY, api_keys=CLIENT_KEY)
    shown = (repr(settings), str(settings), settings.model_dump_json(), f"{settings.model_dump()}", str(vars(settings)))
    assert not leaks("\n".join(shown))


@pytest.mark.parametrize("field", ["upstream_api_key", "api_keys", "upstream_base_url", "public_url"])
def test_a_rejected_setting_shows_no_key(field: str) -> None:
    value = f"http://{UPSTREAM_KEY}@h/v1" if "url" in field else f"{UPSTREAM_KEY}\r\nx: y"
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"upstream_base_url": "http://h", field: value})
    assert not leaks("\n".join([*describe_errors(caught.value), str(caught.value)]))


def test_a_caller_shows_no_key() -> None:
    caller = Caller("1f3870be274f6c49", OWN_KEY)
    assert not leaks(f"{caller} {caller!r} {caller:}")


def test_metrics_and_pages_show_no_secret(log_lines: io.StringIO) -> None:
    """These can be read without a key."""
    with start_limners(pass_through=False) as limner:
        running = limner("gpt-image-2-chat")
        run_scenario(running, SCENES[0])
        paths = ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/status", "/ui")
        pages = [httpx.get(running.url + path, trust_env=False).text for path in paths]
    assert orjson.loads(pages[4])["paths"]
    assert not leaks("\n".join(pages))
