"""Each check prints a line, whether it passes or not."""

import pytest

from app.cli.check import Check, CheckFailed, run_check
from app.config.settings import Settings

SETTINGS = Settings(upstream_base_url="https://h/v1")


async def find(settings: Settings) -> str:
    return f"found {settings.upstream_base_url}"


async def fail(_: Settings) -> str:
    raise CheckFailed("nothing there. See LIMNER_PORT")


def test_a_check_that_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(Check("tls", find), SETTINGS)
    line = capsys.readouterr().out
    assert line.startswith("ok    tls      found https://h/v1 (")
    assert line.endswith(" ms)\n")


def test_a_check_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert not run_check(Check("address", fail), SETTINGS)
    assert capsys.readouterr().out == "FAIL  address  nothing there. See LIMNER_PORT\n"
