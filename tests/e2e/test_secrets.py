"""Keys and prompts, looked for in every log line and every answer of a run in which all kinds of things happen."""

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
def lines(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Whatever is logged, at the most talkative level."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(request.param, "debug", stream)
    yield stream
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@dataclass(frozen=True)
class Scene:
    name: str
    model: str = "gpt-image-2-chat"
    more: tuple[tuple[str, Any], ...] = ()
    key: str = CLIENT_KEY


SCENES = [
    Scene("a picture"),
    Scene("a link", more=(("response_format", "url"),)),
    Scene("a stream", more=(("stream", True),)),
    Scene("several", more=(("n", 3),)),
    Scene("a wrong key", key=WRONG_KEY),
    Scene("a wrong size", more=(("size", "9x9"),)),
    Scene("a wrong value", more=(("quality", "best"),)),
    Scene("an unknown parameter", more=(("whatever", PROMPT),)),
    Scene("a prompt that is none", more=(("prompt", [PROMPT]),)),
    Scene("a link that may not be fetched", more=(("images", ["http://10.0.0.1/a.png"]),)),
    *(Scene(model, model) for model in ("data-url", "missing-image-9", "cut-image-9", "redirects-9")),
    *(Scene(model, model) for model in ("refuses", "refuses-400", "says-nothing", "not-an-image", "echoes-input")),
    *(Scene(model, model) for model in ("error-400", "error-401", "error-429", "error-500", "html-502", "error-in-200")),
    *(Scene(model, model) for model in ("broken-json", "nothing")),
    *(Scene(f"{model}, streamed", model, (("stream", True),)) for model in ("stalls-9", "breaks-after-url", "error-500", "refuses")),
]  # fmt: skip


def play(limner: RunningLimner, scene: Scene) -> str:
    """All that a client gets to see."""
    body = {"prompt": PROMPT, "size": "1024x640", **dict(scene.more)}
    url = f"{limner.url}/v1/images/{'edits' if 'images' in body else 'generations'}"
    headers = {"authorization": f"Bearer {scene.key}"}
    answer = httpx.post(url, json=body, headers=headers, timeout=30, trust_env=False)
    return f"{answer.status_code} {answer.headers} {answer.text}"


@contextmanager
def limners(pass_through: bool) -> Iterator[Callable[[str], RunningLimner]]:
    """By the model that they ask for, which tells the upstream what to do; all before one upstream."""
    own: dict[str, Any] = {"upstream_api_key": None} if pass_through else {"upstream_api_key": UPSTREAM_KEY, "api_keys": CLIENT_KEY}  # fmt: skip
    hurry: dict[str, Any] = {"upstream_attempts": 2, "upstream_idle_timeout": 0.5, "fetch_timeout": 0.5}
    with ExitStack() as stack:
        demo = stack.enter_context(run_demo(api_key=OWN_KEY if pass_through else UPSTREAM_KEY))
        yield cache(lambda model: stack.enter_context(run_limner(demo.url, upstream_model=model, **own, **hurry)))


def leaks(text: str) -> list[str]:
    return [line[:500] for line in text.splitlines() if any(secret in line for secret in SECRETS)]


@pytest.mark.parametrize("lines", ["json"], indirect=True)
def test_a_run_of_all_kinds_tells_no_secret(lines: io.StringIO) -> None:
    with limners(pass_through=False) as limner:
        answers = [play(limner(scene.model), scene) for scene in SCENES]
    assert {answer[:3] for answer in answers} >= {"200", "400", "401", "429", "500"}
    assert not leaks("\n".join(answers))
    assert lines.getvalue().count("request_id") >= len(SCENES)
    assert not leaks(lines.getvalue())


@pytest.mark.parametrize("key", [OWN_KEY, WRONG_KEY])
def test_the_callers_own_key_is_passed_on_and_told_nobody(lines: io.StringIO, key: str) -> None:
    scenes = [Scene("", model, key=key) for model in ("gpt-image-2-chat", "error-401", "error-403", "error-500", "refuses")]  # fmt: skip
    with limners(pass_through=True) as limner:
        answers = [play(limner(scene.model), scene) for scene in scenes]
    assert answers[0].startswith("200" if key == OWN_KEY else "401")
    assert not leaks("\n".join(answers))
    assert not leaks(lines.getvalue())


def test_an_edit_and_a_bug_tell_no_secret(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack trace names files and lines, never the values of variables."""
    form = {"prompt": PROMPT}
    headers = {"authorization": f"Bearer {CLIENT_KEY}"}
    files = {"image": ("heron.png", saved(noise((64, 64)), "PNG"), "image/png")}
    with limners(pass_through=False) as limner:
        url = f"{limner('gpt-image-2-chat').url}/v1/images/edits"
        answers = [httpx.post(url, data=form, files=files, headers=headers, trust_env=False)]

        def fail(*_: object, **__: object) -> None:
            question = f"{PROMPT} {UPSTREAM_KEY}"
            raise RuntimeError(f"a bug, {len(question)} letters long")

        monkeypatch.setattr("app.upstream.client.UpstreamClient._build", fail)
        answers.append(httpx.post(url, data=form, files=files, headers=headers, trust_env=False))
        monkeypatch.setattr("app.access.auth._fingerprint", fail)
        answers.append(httpx.post(url, data=form, files=files, headers=headers, trust_env=False))
    assert [answer.status_code for answer in answers] == [200, 500, 500]
    assert lines.getvalue().count("Traceback") == len(re.findall("bug, [0-9]+ letters", lines.getvalue())) == 2
    assert not leaks(lines.getvalue() + "".join(answer.text for answer in answers))
    assert "a bug" not in "".join(answer.text for answer in answers)


def test_settings_show_no_key() -> None:
    settings = Settings(upstream_base_url="http://h", upstream_api_key=UPSTREAM_KEY, api_keys=CLIENT_KEY)
    shown = (repr(settings), str(settings), settings.model_dump_json(), f"{settings.model_dump()}", str(vars(settings)))
    assert not leaks("\n".join(shown))


@pytest.mark.parametrize("field", ["upstream_api_key", "api_keys", "upstream_base_url", "public_url"])
def test_a_setting_that_is_refused_shows_no_key(field: str) -> None:
    value = f"http://{UPSTREAM_KEY}@h/v1" if "url" in field else f"{UPSTREAM_KEY}\r\nx: y"
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"upstream_base_url": "http://h", field: value})
    assert not leaks("\n".join([*describe_errors(caught.value), str(caught.value)]))


def test_a_caller_shows_no_key() -> None:
    caller = Caller("1f3870be274f6c49", OWN_KEY)
    assert not leaks(f"{caller} {caller!r} {caller:}")


def test_what_metrics_and_pages_show(lines: io.StringIO) -> None:
    """Whatever is there to be read without a key."""
    with limners(pass_through=False) as limner:
        running = limner("gpt-image-2-chat")
        play(running, SCENES[0])
        paths = ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/status", "/ui")
        pages = [httpx.get(running.url + path, trust_env=False).text for path in paths]
    assert orjson.loads(pages[4])["paths"]
    assert not leaks("\n".join(pages))
