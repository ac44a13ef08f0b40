"""The checks of the image store and the shared state."""

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis

from app.cli.check import CheckFailed, check_link, check_signing, check_state, check_store, environment_checks
from app.config.settings import Settings
from tests.support.redis import RedisServer
from tests.support.seaweedfs import RunningWeed, run_weed
from tests.support.signing import credentials


def settings(**more: Any) -> Settings:
    return Settings(upstream_base_url="https://h/v1", **more)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        pytest.param({}, ["store"], id="only the store"),
        pytest.param({"rehost": "never"}, [], id="nothing, where no image is stored"),
        pytest.param({"shared_state": "redis://h"}, ["store", "state"], id="the store and Redis"),
        pytest.param(
            {"shared_state": "redis://h", "rehost": "never"}, ["state"], id="only Redis, where no image is stored"
        ),
    ],
)
def test_what_is_in_use_is_checked(options: dict[str, Any], names: list[str]) -> None:
    assert [step.name for step in environment_checks(settings(**options))] == names


def test_a_folder_is_written_and_read(tmp_path: Path) -> None:
    line = asyncio.run(check_store(settings(image_store=f"disk://{tmp_path}")))
    assert line == "an image was written and read; this server serves it"
    assert len(list(tmp_path.rglob("*.png"))) == 1


@pytest.fixture(scope="module")
def weed() -> Iterator[RunningWeed]:
    with run_weed() as running:
        yield running


def bucket(weed: RunningWeed, key: str, options: str = "") -> Settings:
    return settings(image_store=f"s3://pictures?endpoint={weed.endpoint}{options}", image_store_key=key)


def test_a_bucket_is_written_and_read_and_its_link_followed(weed: RunningWeed) -> None:
    line = asyncio.run(check_store(bucket(weed, weed.key)))
    assert line == f"an image was written and read; its link to {weed.endpoint.removeprefix('http://')} works"


def test_a_link_that_only_clients_can_reach_is_no_failure(weed: RunningWeed) -> None:
    line = asyncio.run(check_store(bucket(weed, weed.key, "&public=http://127.0.0.1:9")))
    assert line == "an image was written and read; its link to 127.0.0.1:9 cannot be reached from here: ConnectError"


def test_a_sample_is_signed(tmp_path: Path) -> None:
    options = settings(**credentials().write(tmp_path))
    assert [step.name for step in environment_checks(options)] == ["store", "sign"]
    assert re.fullmatch(r"CN=Signer,O=Test, until 20\d\d-\d\d-\d\d", asyncio.run(check_signing(options)))
    assert asyncio.run(check_signing(settings())) == "no certificate"
    wrong = options.model_copy(update={"sign_key": SecretStr("sk-1")})
    assert failure(check_signing, wrong) == "LIMNER_SIGN_KEY: is no private key that can be read, as PEM"


def failure(run: Callable[[Settings], Any], options: Settings) -> str:
    with pytest.raises(CheckFailed) as caught:
        asyncio.run(run(options))
    return str(caught.value)


def test_a_key_that_may_only_read_is_a_failure(weed: RunningWeed) -> None:
    line = failure(check_store, bucket(weed, weed.guest))
    assert line.startswith("LIMNER_IMAGE_STORE: ")
    assert "AccessDenied" in line
    assert "another-secret" not in line


def test_a_link_to_something_else_is_a_failure(weed: RunningWeed) -> None:
    host = weed.endpoint.removeprefix("http://")
    line = f"the link to {host} answers 403 instead of the image"
    with pytest.raises(CheckFailed, match=f"^{line}$"):
        asyncio.run(check_link(f"{weed.endpoint}/pictures/none.png"))


def test_an_image_that_cannot_be_read_back_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr("app.images.disk.DiskStore.get", nothing)
    line = failure(check_store, settings(image_store=f"disk://{tmp_path}"))
    assert line == "an image that was written to LIMNER_IMAGE_STORE cannot be read back"


def test_a_store_that_cannot_be_opened_is_a_failure() -> None:
    line = failure(check_store, settings(image_store="disk:///dev/null/images"))
    assert line == "LIMNER_IMAGE_STORE cannot be opened: [Errno 20] Not a directory: '/dev/null/images'"


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is missing")
def test_redis_answers_or_is_down_or_refuses_the_password(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path)
    host = redis.url.removeprefix("redis://")
    options = settings(shared_state=redis.url.replace("//", "//user:a-password@"))
    assert failure(check_state, options).startswith(f"no answer from {host}: Error 111 connecting to {host}.")
    redis.start()
    try:
        assert asyncio.run(check_state(settings(shared_state=redis.url))) == f"{host} answers"
        with Redis.from_url(redis.url) as client:
            client.config_set("maxmemory-policy", "volatile-lru")
            # It drops nothing as long as its memory has no limit.
            assert asyncio.run(check_state(settings(shared_state=redis.url))) == f"{host} answers"
            client.config_set("maxmemory", "100mb")
        found = asyncio.run(check_state(settings(shared_state=redis.url)))
        assert found.startswith(f"{host} answers, but drops records when its memory is full")
        assert found.endswith("its maxmemory-policy is volatile-lru, set noeviction")
        line = failure(check_state, options)
    finally:
        redis.kill()
    assert line.startswith(f"no answer from {host}: ")
    assert line.endswith(". See LIMNER_SHARED_STATE")
    assert "a-password" not in line
