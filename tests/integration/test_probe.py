"""`limner probe` against the demo upstream in the guise of each family, and against upstreams that cannot be probed."""

import asyncio
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import orjson
import pytest
from pydantic import SecretStr

from app.cli import probe as probe_module
from app.cli.main import INTERRUPTED, main
from app.cli.probe import choose_upstream, is_about_question, run_probe, size_of
from app.cli.probe_report import ProbeRun, Sight, as_document, as_toml
from app.cli.terminal import Progress
from app.config.settings import Settings
from app.errors import ApiError, InvalidRequest, ModerationBlocked, UpstreamAuth, UpstreamError, UpstreamNeedsOperator
from app.main import create_app
from app.protocol.dialect_probe import RATIO, Answer, Question
from app.protocol.dialects import COMMON_RATIOS, DIALECTS
from app.protocol.image_format import ImageInfo
from app.protocol.image_response import OutputImage
from app.protocol.sizes import Size
from tests.support.proxy import run_proxy
from tests.support.servers import RunningDemo, run_demo

pytestmark = pytest.mark.usefixtures("default_log")


@pytest.fixture(scope="module")
def demo() -> Iterator[RunningDemo]:
    with run_demo(api_key="sk-upstream") as running:
        yield running


def settings(demo: RunningDemo, model: str, **more: Any) -> Settings:
    fields = {"upstream_base_url": f"{demo.url}/v1", "upstream_api_key": "sk-upstream", "upstream_model": model}
    return Settings(**{**fields, "fetch_allow": demo.url.removeprefix("http://"), **more})


def probe(demo: RunningDemo, model: str, max_images: int = 6, **more: Any) -> tuple[int, ProbeRun]:
    demo.state.reset()
    given = settings(demo, model, **more)
    run = ProbeRun(given.effective_upstreams[0])
    return run_probe(given, run, max_images, Progress()), run


def read_table(lines: list[str], folder: Path) -> Settings:
    file = folder / "limner.toml"
    file.write_text("\n".join(lines).replace('"put its key here"', '"sk-1"'))
    return Settings(config=file)


@pytest.mark.parametrize("family", DIALECTS)
def test_the_dialect_of_each_family_is_found(demo: RunningDemo, family: str, tmp_path: Path) -> None:
    code, run = probe(demo, f"as-{family}")
    assert code == 0
    assert run.images == demo.state.images_drawn <= 2
    (entry,) = read_table(as_toml(run), tmp_path).effective_upstreams
    assert entry.dialect.preset == family
    assert (entry.base_url, entry.model) == (f"{demo.url}/v1", f"as-{family}")


@pytest.mark.parametrize("family", DIALECTS)
def test_the_dialect_that_is_found_tells_the_family_the_size(demo: RunningDemo, family: str, tmp_path: Path) -> None:
    """Ask once more with the table that was printed: a wide image is wide."""
    _, run = probe(demo, f"as-{family}")
    found = read_table(as_toml(run), tmp_path)
    again = settings(demo, f"as-{family}", upstream_dialect=found.effective_upstreams[0].dialect)
    assert asyncio.run(paint_wide(again)) > 1.2


def test_the_upstream_is_probed_through_its_proxy_and_with_its_headers(demo: RunningDemo) -> None:
    async def run() -> tuple[int, list[bytes]]:
        async with run_proxy(demo.url) as proxy:
            more: dict[str, Any] = {"upstream_proxy": proxy.address, "upstream_headers": {"X-Title": "Gallery"}}
            code, _ = await asyncio.to_thread(probe, demo, "as-words", **more)
            return code, proxy.heads

    code, heads = asyncio.run(run())
    assert code == 0
    assert heads
    assert all(head.startswith(f"POST {demo.url}/v1/chat/completions ".encode()) for head in heads)
    assert all(b"gallery" in head.lower() for head in heads)


async def paint_wide(given: Settings) -> float:
    app = create_app(given.model_copy(update={"image_store": "memory:", "allow_anonymous": True}))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
    async with app.router.lifespan_context(app), client as http:
        response = await http.post("/v1/images/generations", json={"prompt": "a fox", "size": "1536x1024"})
    width, _, height = response.json()["size"].partition("x")
    return int(width) / int(height)


def test_what_was_seen_is_written_above_the_table(demo: RunningDemo) -> None:
    _, run = probe(demo, "as-openrouter")
    text = "\n".join(as_toml(run, Path("/keys/openrouter")))
    assert "# limner probe asked for 1 image that may have cost money.\n" in text
    assert (
        "got no image, at no cost: No endpoints found that support the requested output modalities: image, text" in text
    )
    assert "21:9 at image_config.aspect_ratio, 4:3 at aspect_ratio: got 1536x672 in " in text
    assert "# The size is read at: image_config.aspect_ratio.\n# Replies: field; streamed.\n" in text
    assert "out; cost: 0.04 USD.\n" in text
    assert 'api_key_file = "/keys/openrouter"\n' in text
    assert text.endswith('\n\n[upstreams.dialect]\npreset = "openrouter"\nmodalities = ["image"]')


def test_a_dialect_that_no_preset_has(tmp_path: Path) -> None:
    run = ProbeRun(Settings(upstream_base_url="http://h/v1", upstream_api_key="k").effective_upstreams[0])
    run.probe.place = RATIO
    run.sights.append(Sight(Answer(Question({RATIO: "4:3"}), Size(1184, 864), "link")))
    (entry,) = read_table(as_toml(run), tmp_path).effective_upstreams
    dialect = entry.dialect.build()
    assert (dict(dialect.size), dialect.ratios, dialect.send) == ({RATIO: "ratio"}, COMMON_RATIOS, ("user", "stream"))


def test_replies_that_are_not_streamed_and_count_nothing(demo: RunningDemo) -> None:
    _, run = probe(demo, "as-top-level+no-usage+json-for-stream")
    text = "\n".join(as_toml(run))
    assert "# Replies: markdown-image; not streamed.\n# Usage of the last image: none; cost: not reported.\n" in text


def test_no_more_is_asked_than_was_announced(demo: RunningDemo) -> None:
    code, run = probe(demo, "as-words", max_images=1)
    assert (code, run.images, demo.state.images_drawn) == (0, 1, 1)
    assert "# Ended early: 1 image was paid for, and no more was announced." in as_toml(run)
    assert "# Where the size is read is not known yet." in as_toml(run)


def test_a_model_that_answers_in_words(demo: RunningDemo) -> None:
    code, run = probe(demo, "text-only")
    assert (code, run.finding, run.stopped) == (1, None, "")
    code, run = probe(demo, "as-words+refuses")
    assert (code, run.images, run.sights[0].message) == (1, 1, run.stopped)


def test_a_model_that_chooses_its_own_size() -> None:
    run = ProbeRun(Settings(upstream_base_url="http://h/v1", upstream_api_key="k").effective_upstreams[0])
    run.sights.append(Sight(Answer(Question({RATIO: "4:3"}), Size(1024, 1024), "link")))
    assert "# The size had no effect anywhere: images have the size that the model chooses." in as_toml(run)


def test_the_way_to_the_upstream_is_that_of_the_settings(demo: RunningDemo) -> None:
    code, run = probe(demo, "as-words", upstream_proxy="http://127.0.0.1:9")
    assert (code, demo.state.calls, run.images) == (1, 0, 0)
    assert run.stopped


def test_the_headers_of_the_settings_are_for_their_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("sk-other")
    monkeypatch.setenv("LIMNER_UPSTREAM_BASE_URL", "http://upstream.example/v1")
    monkeypatch.setenv("LIMNER_UPSTREAM_HEADERS", '{"x-key": "secret-of-headers"}')
    assert set(choose_upstream(None, None, None, None)[1].headers) == {"x-key"}
    _, other = choose_upstream(None, "http://other.example/v1", tmp_path / "key", None)
    assert (other.base_url, dict(other.headers)) == ("http://other.example/v1", {})
    assert other.api_key == SecretStr("sk-other")


@pytest.mark.parametrize(
    ("model", "requests", "images", "stopped"),
    [
        pytest.param("error-401", 1, 0, "The demo upstream returns 401, as requested.", id="it refuses the key"),
        pytest.param(
            "error-in-200-401",
            1,
            0,
            "The demo upstream returns 401, as requested.",
            id="it refuses the key inside a 200",
        ),
        pytest.param("limited-30", 1, 0, "", id="it accepts no more requests"),
        pytest.param("refuses-400", 1, 0, "", id="it refuses the prompt"),
        pytest.param("nothing", 1, 0, "The model `nothing` does not exist", id="it does not know the model"),
        pytest.param("breaks-mid-stream", 1, 1, "The upstream broke off", id="it breaks off, and may have to be paid"),
    ],
)
def test_an_upstream_that_cannot_be_probed_is_asked_once(
    demo: RunningDemo, model: str, requests: int, images: int, stopped: str
) -> None:
    code, run = probe(demo, model)
    assert (code, demo.state.calls, run.finding) == (1, requests, None)
    assert run.images >= images
    assert run.stopped.startswith(stopped)
    assert as_toml(run)[-1] == "# No image has come, so there is no dialect to write."


def test_failures_that_may_have_cost_something_count_as_images(demo: RunningDemo) -> None:
    code, run = probe(demo, "error-500", max_images=3)
    assert (code, run.images, demo.state.calls) == (1, 3, 3)


def test_a_wrong_key_is_not_shown(demo: RunningDemo) -> None:
    code, run = probe(demo, "as-words", upstream_api_key="sk-wrong-key")
    assert (code, run.stopped) == (1, "Incorrect API key provided.")
    assert "wrong-key" not in repr(as_document(run))


def test_ctrl_c_leaves_what_was_seen(demo: RunningDemo, monkeypatch: pytest.MonkeyPatch) -> None:
    original = probe_module.ask
    asked: list[object] = []

    async def interrupted(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return await original(*arguments)

    monkeypatch.setattr(probe_module, "ask", interrupted)
    code, run = probe(demo, "as-words")
    assert (code, run.images) == (INTERRUPTED, 2)
    text = "\n".join(as_toml(run))
    assert text.startswith(
        "# limner probe asked for 2 images that may have cost money.\n# Ended early: it was interrupted"
    )
    assert 'dialect = "words"' in text


@pytest.mark.parametrize(
    ("error", "words", "is_about"),
    [
        (InvalidRequest("x"), "", True),
        (ModerationBlocked("x"), "", False),
        (UpstreamNeedsOperator("x", code="upstream_dialect"), "", True),
        (UpstreamNeedsOperator("x", code="upstream_model"), "no such modalities", True),
        (UpstreamNeedsOperator("x", code="upstream_model"), "no such model", False),
        (UpstreamAuth("x"), "", False),
        (UpstreamError("x"), "", True),
        (UpstreamError("x", code="upstream_overloaded"), "", False),
    ],
    ids=lambda value: getattr(value, "code", None) or type(value).__name__,
)
def test_which_errors_another_question_may_avoid(error: ApiError, words: str, is_about: bool) -> None:
    assert is_about_question(error, words) == is_about


def test_an_image_that_does_not_say_its_size() -> None:
    assert size_of(OutputImage("link")) is None
    assert size_of(OutputImage("link", info=ImageInfo("image/svg+xml", None, None, alpha=True))) is None


@pytest.fixture
def folder(demo: RunningDemo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with settings for two upstreams, in which commands run."""
    (tmp_path / "key").write_text("sk-upstream\n")
    tables = (
        f'[[upstreams]]\nname = "{name}"\nbase_url = "{demo.url}/v1"\napi_key_file = "key"\n{models}\n'
        for name, models in (
            ("main", 'model = "as-words"\nheaders = { x-title = "limner" }'),
            ("spare", 'models = { gpt-image-2 = "as-poe" }'),
        )
    )
    (tmp_path / "limner.toml").write_text(f'fetch_allow = "{demo.url.removeprefix("http://")}"\n{"".join(tables)}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_upstreams_of_the_settings(folder: Path, demo: RunningDemo, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--yes", "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert found["upstream"] == {"name": "main", "base_url": f"{demo.url}/v1", "model": "as-words"}
    assert (found["dialect"], found["size_read_at"], found["images"]) == ({"preset": "words"}, "words", 2)
    assert [question["size"] for question in found["questions"]] == ["1254x1254", "1672x940"]
    assert main(["probe", "--yes"]) == 0
    assert "# Keep these lines of the upstream, too: headers.\n[[upstreams]]\n" in capsys.readouterr().out
    assert main(["probe", "--yes", "--upstream", "spare"]) == 0
    out = capsys.readouterr().out
    assert 'name = "spare"\n' in out
    assert out.endswith('api_key = "put its key here"\nmodel = "as-poe"\ndialect = "poe"\n')


def test_another_upstream_than_that_of_the_settings(
    folder: Path, demo: RunningDemo, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["probe", "--yes", "--base-url", f"{demo.url}/v1", "--model", "as-google"]
    assert main([*options, "--api-key-file", "key"]) == 0
    out, err = capsys.readouterr()
    assert f'api_key_file = "{folder}/key"\nmodel = "as-google"\ndialect = "google"\n' in out
    assert "image 1 of at most 6: size at metadata.size, " in err
    assert "sk-upstream" not in out + err
    # The key of the settings is for the address of the settings.
    assert main(options) == 2
    assert "there is no key to pay with. Name its file with --api-key-file." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--upstream", "other"],
            "--upstream other: there is no such upstream, only main, spare",
            id="an upstream that is not listed",
        ),
        pytest.param(
            ["--api-key-file", "missing"], "missing: No such file or directory", id="a file that does not exist"
        ),
        pytest.param(
            ["--api-key-file", "limner.toml"],
            "limner.toml: a key is one line of visible ASCII characters",
            id="a file that is no key",
        ),
    ],
)
def test_a_wrong_option_is_refused(
    folder: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--yes", *options]) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_asked_without_consent(
    folder: Path, demo: RunningDemo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.state.reset()
    questions: list[str] = []

    def refuse(text: str, **options: Any) -> bool:
        questions.append(text)
        return False

    monkeypatch.setattr(click, "confirm", refuse)
    assert main(["probe", "--max-images", "3"]) == 1
    assert questions == [f"Generate up to 3 small images with as-words at {demo.url}/v1? They cost money."]
    assert demo.state.calls == 0


@pytest.mark.parametrize(("is_terminal", "code"), [(True, INTERRUPTED), (False, 2)])
def test_no_answer_to_the_question(
    folder: Path,
    demo: RunningDemo,
    is_terminal: bool,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo.state.reset()
    stdin = io.StringIO()
    monkeypatch.setattr(stdin, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["probe"]) == code
    assert ("Say --yes" in capsys.readouterr().err) == (not is_terminal)
    assert demo.state.calls == 0


def test_the_key_is_no_part_of_a_run() -> None:
    entry = Settings(upstream_base_url="http://h/v1", upstream_api_key="sk-secret").effective_upstreams[0]
    assert isinstance(entry.api_key, SecretStr)
    assert "sk-secret" not in repr(ProbeRun(entry))
