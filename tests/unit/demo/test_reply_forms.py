"""Each reply form, as the message of a JSON reply."""

from typing import Any

import pytest

from app.demo import reply_forms
from app.demo.reply_forms import DemoImage, ReplyBuilder, merge

DRAFT = DemoImage("http://demo/1.png", b"one", "image/png", is_draft=True)
FINAL = DemoImage("http://demo/2.png", b"two", "image/jpeg")
OTHER = DemoImage("http://demo/3.png", b"three", "image/png")

CONTENT: dict[ReplyBuilder, object] = {
    reply_forms.documented: "预览图:http://demo/1.png\n已生成图片:http://demo/2.png\n已生成图片:http://demo/3.png",
    reply_forms.markdown: "![preview](http://demo/1.png)\n![image](http://demo/2.png)\n![image](http://demo/3.png)",
    reply_forms.data_url: "![preview](data:image/png;base64,b25l)\n![image](data:image/jpeg;base64,dHdv)\n"
    "![image](data:image/png;base64,dGhyZWU=)",
    reply_forms.html: "\n".join(f'<p>done</p><img src="http://demo/{n}.png" alt="image">' for n in (1, 2, 3)),
    reply_forms.b64_json: "b25l\ndHdv\ndGhyZWU=",
    reply_forms.json_text: '{"created":1741570283,"data":[{"url":"http://demo/1.png"},{"url":"http://demo/2.png"},'
    '{"url":"http://demo/3.png"}]}',
    reply_forms.bare_links: "http://demo/1.png\nhttp://demo/2.png\nhttp://demo/3.png",
    reply_forms.images_body: None,
    reply_forms.content_parts: [
        {"type": "text", "text": "Here is your picture."},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,b25l"}},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,dHdv"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,dGhyZWU="}},
    ],
    reply_forms.images_field: "Here is your picture.",
    reply_forms.thinks: "已生成图片:http://demo/2.png\n已生成图片:http://demo/3.png",
    reply_forms.refuses: "I can't generate that image. It violates our usage policies: https://policies.invalid/usage.",
    reply_forms.filtered: None,
    reply_forms.text_only: "What a lovely idea! Which colors would you like?",
    reply_forms.echoes_input: "I see what you sent. What shall I change?\n![your picture](http://mine/a.png)",
    reply_forms.says_nothing: "",
}


def build(builder: ReplyBuilder, *images: DemoImage) -> dict[str, Any]:
    return merge(builder(images, ["http://mine/a.png"]).deltas)


@pytest.mark.parametrize("builder", CONTENT, ids=lambda builder: builder.__name__)
def test_each_form_writes_its_content(builder: ReplyBuilder) -> None:
    message = build(builder, DRAFT, FINAL, OTHER)
    assert message["role"] == "assistant"
    assert message["content"] == CONTENT[builder]


def test_the_documented_form_is_one_sentence() -> None:
    assert build(reply_forms.documented, FINAL) == {"role": "assistant", "content": "已生成图片:http://demo/2.png"}


def test_the_images_field_counts_its_images() -> None:
    images = build(reply_forms.images_field, FINAL, OTHER)["images"]
    assert images[1] == {"type": "image_url", "index": 1, "image_url": {"url": "data:image/png;base64,dGhyZWU="}}
    assert [image["index"] for image in images] == [0, 1]


def test_a_draft_is_part_of_the_reasoning() -> None:
    assert build(reply_forms.thinks, DRAFT, FINAL)["reasoning_content"] == "A first try: http://demo/1.png\n"


def test_a_filtered_reply_says_why_it_ended() -> None:
    assert reply_forms.filtered([], []).finish_reason == "content_filter"
    assert reply_forms.documented([FINAL], []).finish_reason == "stop"


def test_which_forms_have_text_content() -> None:
    assert reply_forms.documented([FINAL], []).has_text_content
    assert reply_forms.images_field([FINAL], []).has_text_content
    assert not reply_forms.content_parts([FINAL], []).has_text_content
