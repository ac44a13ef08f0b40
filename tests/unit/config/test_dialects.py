"""The dialect of an upstream in a configuration file or a variable: a preset, an extended one, or one of its own."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from app.config.settings import Settings
from app.protocol.chat_request import ChatRequest
from app.protocol.dialects import DIALECTS, Dialect
from app.protocol.parameters import Operation
from app.protocol.request_parser import read_json

ONE: Any = {"upstream_base_url": "https://h/v1"}


def written(**options: Any) -> Dialect:
    (entry,) = Settings(**ONE, **options).effective_upstreams
    return entry.dialect.build()


@pytest.mark.parametrize("name", DIALECTS)
def test_a_name_is_a_preset(name: str) -> None:
    assert written(upstream_dialect=name) is DIALECTS[name]
    assert written(upstream_dialect={"preset": name}) is DIALECTS[name]


def test_the_default_is_the_documented_model() -> None:
    assert written() is DIALECTS["gpt-image-2-chat"]


def test_a_preset_is_extended_by_json_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_UPSTREAM_DIALECT", '{"preset": "openrouter", "modalities": ["image"]}')
    dialect = written()
    assert (dialect.modalities, dialect.size) == (("image",), DIALECTS["openrouter"].size)
    assert DIALECTS["openrouter"].modalities == ("image", "text")


def test_a_dialect_without_a_preset_tells_nothing_but_what_it_says() -> None:
    dialect = written(upstream_dialect={"quality": ["q"], "tiers": ["4K", "1K"]})
    assert (dialect.size, dialect.quality, dialect.tiers) == ({}, ("q",), ("1K", "4K"))
    assert (dialect.send, dialect.mask) == (Dialect().send, Dialect().mask)


VENDOR = """
[[upstreams]]
name = "easel"
base_url = "https://api.easel.example/v1"
api_key = "sk-1"
model = "easel-xl"
[upstreams.dialect]
size = { "options.format" = "ratio", "options.resolution" = "tier" }
ratios = ["1:1", "16:9", "9:16"]
quality = ["options.effort"]
qualities = { low = "draft", high = "best" }
extra_body = { options = { watermark = false } }
"""


def test_five_lines_for_a_vendor_that_is_not_in_the_table(tmp_path: Path) -> None:
    """A page of a vendor says: `options.format` 1:1, 16:9 or 9:16; `options.resolution` 1K to 4K; `effort` draft, best."""
    file = tmp_path / "limner.toml"
    file.write_text(VENDOR)
    (entry,) = Settings(config=file).effective_upstreams
    request = read_json(Operation.GENERATION, {"prompt": "a cat", "size": "2048x1152", "quality": "high"})
    body = ChatRequest(request).body(entry.dialect.build(), "easel-xl")
    assert orjson.loads(b"".join(body.chunks())) == {
        "model": "easel-xl",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a cat"}]}],
        "options": {"watermark": False, "format": "16:9", "resolution": "2K", "effort": "best"},
        "stream": False,
    }
