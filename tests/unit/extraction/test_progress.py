"""Which line of a growing reply is shown as progress, and which never is."""

import base64
from dataclasses import dataclass

import pytest

from app.extraction.partial import progress_line
from app.protocol.chat_reply import ChatReply
from tests.support.sample_images import noise, saved

IMAGE = base64.encodebytes(saved(noise((20, 20)), "PNG")).decode()
PROMPT = "A lighthouse in a storm,\n oil on canvas"


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    text: str
    line: str = ""
    prompt: str = PROMPT


CASES = [
    Case("nothing yet", ""),
    Case("a line in a quote", "> 进度 **34%**\n", "进度 34%"),
    Case("a single asterisk", "Upscaling * 2\n", "Upscaling * 2"),
    Case("the newest of several lines", "> 🕐 排队中.\n\n> ⚡ 生成中..\n\n", "⚡ 生成中.."),
    Case("the newest complete line, while the next one grows", "Queued\nGenera", "Queued"),
    Case("a growing line that may be read so far", "Queuing… 40 %", "Queuing… 40 %"),
    Case("a growing line of two dots", "Queued\nGenerating..", "Queued"),
    Case("a growing line of dots", "Queued\nPainting...", "Painting..."),
    Case("a growing line that may continue with a digit", "Queued\n**Painting 4", "Queued"),
    Case("characters that cannot be printed", "Queued\x1b[31m\u202e\r\n", "Queued [31m"),
    Case("lines of ornaments only", "Queued\n---\n> \n\n", "Queued"),
    Case("an image", "Queued\n![a](https://e.com/a.png)\n", "Queued"),
    Case("a URL without a scheme", "Queued\nSee files.example/a\n", "Queued"),
    Case("an address of the operator's network", "Queued\nworker 10.0.0.7\n", "Queued"),
    Case("an image in base64", f"Queued\ndata:image/png;base64,{'iVBORw0KGgo' * 40}\n", "Queued"),
    Case("an image in lines of base64, the last one short", f"Queued\n{IMAGE}", "Queued"),
    Case("letters that are no words", f"Queued\n{'yMnKy8' * 8}\n", "Queued"),
    Case("a key", "Queued\nsk-verysecret\n", "Queued"),
    Case("the server's own key", "Queued\nfor 1234-abcd\n", "Queued"),
    Case("reasoning", "<think>\nLet me see\n", ""),
    Case("JSON and code", 'Queued\n{"size": 7}\n`tool`\n<b>7</b>\n', "Queued"),
    Case("the prompt", "Queued\nPainting a lighthouse in a storm, oil on canvas\n", "Queued"),
    Case("part of the prompt, in other spaces", "Queued\nit says IN A  STORM, OIL on\n", "Queued"),
    Case("a word of the prompt", "Queued\nthe storm: 40 %\n", "the storm: 40 %"),
    Case("a short prompt", "Queued\nPainting: 狐狸\n", "Queued", "狐狸"),
    Case("a line of prose", f"Queued\n{'word ' * 40}\n", "Queued"),
    Case("only lines without words", "Queued\n" + "---\n" * 8, ""),
    Case("a long reply", "Queued\n" + " " * 16_384, ""),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_progress_is_the_newest_presentable_line(case: Case) -> None:
    reply = ChatReply(({"content": "Another choice\n"}, {"content": case.text}), secrets=("1234-abcd",))
    assert progress_line(reply, case.prompt) == case.line


def test_a_reply_without_a_message_has_no_progress() -> None:
    assert progress_line(ChatReply(), PROMPT) == ""
