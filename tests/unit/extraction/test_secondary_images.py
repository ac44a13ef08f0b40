"""Images beside the result: which of them count where there is nothing better, and which never do."""

from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from app.extraction.forms import explain, find_images
from app.protocol.reply_parser import read_reply

A, B, C = (f"https://cdn.example.com/gen/{name}.png" for name in ("a1", "b2", "c3"))
LOGO = "https://relay.example.net/logo.png"


@dataclass(frozen=True)
class Case:
    name: str
    message: str | dict[str, Any]
    found: list[str]


MARKS = [
    Case("the copy without a mark, and the one with it", {"watermarked_url": A, "unwatermarked_url": B}, [B]),
    Case("the same in other words", {"with_watermark": A, "no_watermark": B}, [B]),
    Case("the same in camel case", {"watermarkUrl": A, "watermarkFreeUrl": B}, [B]),
    Case("the copy without a mark alone", {"imageWithoutWatermark": A}, [A]),
    Case("the copy with a mark alone", {"watermark_image": A}, [A]),
]
FLAGS = [
    Case("a flag of a preview", {"images": [{"url": A, "is_preview": True}, {"url": B, "is_preview": False}]}, [B]),
    Case("a flag of a partial image", {"images": [{"url": A, "partial": True}, {"url": B}]}, [B]),
    Case("a flag of the input", {"images": [{"url": A}, {"url": B, "isInput": True}]}, [A]),
    Case("a flag of what is not final", {"images": [{"url": A, "final": False}, {"url": B, "final": True}]}, [B]),
    Case("flags about other matters", {"images": [{"url": A, "nsfw": False, "public": True}, {"url": B}]}, [A, B]),
    Case(
        "flags about other images",
        {"images": [{"url": A, "has_mask": True, "preview_available": True}, {"url": B}]},
        [A, B],
    ),
    Case("a preview alone", {"images": [{"url": A, "preview": True}]}, [A]),
]
PAGE = "https://relay.example.net/open/1"
KEYS = [
    Case("a button", {"blocks": [{"type": "image", "url": A}, {"type": "button", "url": B}]}, [A]),
    Case("a temporary file", {"images": [{"type": "temp", "url": A}, {"type": "output", "url": B}]}, [B]),
    Case("temporary files alone", {"images": [{"type": "temp", "url": A}, {"type": "temp", "url": B}]}, [A, B]),
    Case("the usual size and the full one", {"images": [{"urls": {"small": A, "regular": B, "full": C}}]}, [C]),
    Case("a template beside the image", {"template_image": A, "url": B}, [B]),
    Case("the image before a change in Chinese", {"原图": A, "结果图": B}, [B]),
    Case("the image before a change in Chinese, in other words", {"修改前": A, "修改后": B}, [B]),
    Case("the full size in Chinese", {"缩略图": A, "原图": B}, [B]),
    Case("the icon in the small print of a card", {"blocks": [{"type": "image", "image_url": A}, {"type": "context", "elements": [{"type": "image", "image_url": B}]}]}, [A]),
    Case("the action of a card", {"body": [{"type": "Image", "url": A}], "actions": [{"type": "Action.OpenUrl", "url": PAGE}]}, [A]),
    Case("the preview of a workflow", {"outputs": [{"node": "SaveImage", "url": A}, {"class_type": "PreviewImage", "url": B}]}, [A]),
    Case("steps on the way", {"output": {"final": A, "intermediate": [B, C]}}, [A]),
    Case("a step on the way by its label", {"images": [{"url": B, "stage": "intermediate"}, {"url": A, "stage": "final"}]}, [A]),
    Case("the raw image and the processed one", {"result": {"processed": A, "raw": B}}, [A]),
    Case("the raw image alone", {"result": {"raw": B}}, [B]),
    Case("two qualities", {"images": [{"url": B, "quality": "low"}, {"url": A, "quality": "high"}]}, [A]),
    Case("one quality", {"images": [{"url": B, "quality": "low"}]}, [B]),
    Case("a compressed copy", {"compressed_url": B, "original_url": A}, [A]),
    Case("images of a log", {"output": {"url": A}, "logs": [B]}, [A]),
    Case("what a failed task was called with", {"task": {"status": "failed", "image_url": A}}, []),
    Case("the state of an image that is there", {"task": {"status": "processing", "image_url": A}}, [A]),
]  # fmt: skip
MARKUP = [
    Case("the input of a call in JSON between words", f'Called: {{"tool": "edit", "input": {{"image": "{A}"}}}} - see there', []),
    Case("a prompt with a link in JSON between words", f'Done: ```json\n{{"prompt": "a fox like {A}"}}\n```', []),
    Case("a result that is in a history too", f'![fox]({A})\n\nDebug: {{"history": [{{"url": "{A}"}}]}} .', [A]),
    Case("a link that is in a history too", f'Result: {A}\nDebug: {{"history": [{{"url": "{A}"}}]}} .', [A]),
    Case("a result in JSON between words", f'Done: {{"input": {{"image": "{A}"}}, "text": "it is {B}"}} - see there', [B]),
    Case("a photo of a model that cannot paint", "![fox](https://images.unsplash.com/photo-15?w=800&q=80)", []),
    Case("a photo without a host below", f"![fox](https://picsum.photos/seed/fox/1024.jpg)\n{A}", [A]),
    Case("a host with a similar name", "![fox](https://my-unsplash.com/a.png)", ["https://my-unsplash.com/a.png"]),
    Case("an icon of a chat program", f"{A}\n![](https://cdn.discordapp.com/embed/avatars/0.png)", [A]),
    Case("a file of a chat program", "![](https://cdn.discordapp.com/attachments/1/2/f.png?ex=6&hm=a)", ["https://cdn.discordapp.com/attachments/1/2/f.png?ex=6&hm=a"]),
    Case("the user's turn", f"User: make it blue ![fox]({A})\nAssistant: ![blue fox]({B})", [B]),
    Case("the user's turn in Chinese", f"[用户] {A}\n[助手] {B}", [B]),
    Case("the user's image by its element", f"<user_image>{A}</user_image>\n<image>{B}</image>", [B]),
    Case("roles of elements", f'<image role="input" url="{A}"/><image role="output" url="{B}"/>', [B]),
    Case("roles of elements in turn", f'<image role="output" url="{B}"/>\n<image role="input" url="{A}"/>', [B]),
    Case("kinds of files", f'<file kind="thumbnail" href="{A}"/>\n<file kind="image" href="{B}"/>', [B]),
    Case("types of elements", f'<image type="thumbnail" src="{A}"/>\n<image type="full" src="{B}"/>', [B]),
    Case("names of elements in one line", f"<preview>{A}</preview><full>{B}</full>", [B]),
    Case("names of elements in turn", f"<result>{B}</result><source>{A}</source>", [B]),
    Case("sizes as attributes", f'<photo small="{A}" large="{B}"/>', [B]),
    Case("words in an element in front", f"<b>Preview</b>: {A}\n<b>Final</b>: {B}", [B]),
    Case("a hidden image", f'![fox]({A})\n<img src="{LOGO[:-8]}t.png" style="display: none">', [A]),
    Case("a hidden image by its attribute", f'![fox]({A})\n<img hidden src="{LOGO[:-8]}t.png">', [A]),
    Case("a counter of readers", f"{A}\n![](https://relay.example.net/track.gif?id=1)", [A]),
    Case("a counter of readers without an ending", f"![](https://relay.example.net/pixel?ev=view)\n![x]({A})", [A]),
    Case("the art of pixels", "![fox](https://cdn.example.com/pixel/1.png)", ["https://cdn.example.com/pixel/1.png"]),
    Case("a code for a group", f"![fox]({A})\n![加入QQ群](https://relay.example.net/q.png)", [A]),
    Case("a rule between paragraphs", f"![fox]({A})\n![](https://relay.example.net/assets/divider.png)", [A]),
    Case("a sample that is no address", "![image](https://example)", []),
    Case("emphasis that begins in front", f"__Result: {A}__", [A]),
    Case("words behind two hyphens", f"{A}-- enjoy", [A]),
    Case("a name that ends with a hyphen", "https://cdn.example.com/f/abc-", []),
]  # fmt: skip
STANDINGS = [
    Case("two originals and an avatar", f"![An original fox]({A})\n![The original, again]({B})\n![avatar]({LOGO})", [A, B]),
    Case("an original behind an avatar", f"![avatar]({LOGO})\n![original character]({A})", [A]),
    Case("an input as a subject and a logo", f"![Input device]({A})\n![logo]({LOGO})", [A]),
    Case("a preview and the original", f"![Vorschau]({A})\n![Original]({B})", [B]),
    Case("the original and a preview", f"원본: {B}\n썸네일: {A}", [B]),
    Case("a preview and the input", f"![preview]({B})\n![uploaded photo]({A})", [B]),
    Case("a logo in markup, the original as a link", f"![logo]({LOGO})\nOriginal: {A}", [A]),
    Case("the input in markup, a preview as a link", f"![your upload](https://h.example/upload.png)\n预览：{A}", ["https://h.example/upload.png"]),
    Case("the original beside a result", f"![原图]({A})\n![结果]({B})", [B]),
    Case("a result beside the original", f"结果：{B}\n原图：{A}", [B]),
    Case("the original beside a copy", f"网页版：{A}\n原图：{B}", [A, B]),
    Case("the final original", f"![预览]({A})\n![最终原图]({B})", [B]),
    Case("the image before a change, in Italian", f"![Prima]({A})\n![Dopo]({B})", [B]),
    Case("the image after a change, in Thai", f"หลัง: {B}\nก่อน: {A}", [B]),
    Case("a mask and a result", f"Mask used: {A}\nInpainted image: {B}", [B]),
    Case("a style and a result", f"- Style: ![style]({A})\n- Output: ![out]({B})", [B]),
    Case("maps and a result", f"Depth: {A}\nNormal map: {C}\nFinal: {B}", [B]),
    Case("what steers a model", f"![control image (canny)]({A})\n![generated]({B})", [B]),
    Case("a mask in Chinese", f"蒙版：{A}\n重绘结果：{B}", [B]),
    Case("an arrow to the result", f"{A} -> {B}", [B]),
    Case("an arrow between images", f"![in]({A}) → ![out]({B})", [B]),
    Case("an arrow between images of HTML", f'<img src="{A}"> ➡️ <img src="{B}">', [B]),
    Case("words for an arrow", f"Turned {A} into {B}", [B]),
    Case("words for an arrow in Chinese", f"将 {A} 转换为 {B}", [B]),
    Case("an arrow to a page", f"{A} → {PAGE}", [A]),
    Case("an arrow from the result to a page", f"![preview]({B})\n![final]({A}) → [View]({PAGE})", [A]),
    Case("two images and an arrow to a page", f"![a]({A}) ![b]({B}) -> {PAGE}", [A, B]),
    Case("an arrow to a label", f"{A} → a fox\n{B} → a hare", [A, B]),
    Case("steps and a final image", f"Step 1 – lines ![s]({A})\nStep 2 – color ![c]({C})\nFinal ![f]({B})", [B]),
    Case("one file in three formats", f"JPG: {A[:-3]}jpg\nPNG: {A}\nWebP: {A[:-3]}webp", [A]),
    Case("links to one file in two formats", f"[JPEG]({A[:-3]}jpg) | [PNG]({A})", [A]),
    Case("two files in two formats", f"PNG: {A}\nJPG: {B[:-3]}jpg", [A, f"{B[:-3]}jpg"]),
    Case("steps alone", f"Step 1: {A}\nStep 2: {B}", [A, B]),
    Case("the full size of the result in Chinese", "结果：https://h.example/1_w400.png\n原图：https://h.example/1.png", ["https://h.example/1.png"]),
    Case("two versions, of which one is normal", f"Normal: {A}\nAnime: {B}", [A, B]),
    Case("words of an image that says hidden", f'<img src="{A}" alt="A hidden temple">\n<img src="{B}" alt="A fox">', [A, B]),
    Case("a style that hides what overflows", f'<img src="{A}" style="overflow:hidden">\n![preview]({B})', [A]),
    Case("a link in case of trouble", f"In case you cannot download the image: {A}", [A]),
    Case("a link for readers in China", f"国内无法访问：{A}", [A]),
    Case("a robot that cannot do something", f"![A robot that cannot process emotions]({A})", [A]),
    Case("what was not changed", f"Sorry, I could not edit the text: {A}", [A]),
    Case("the prompt above an image that leads to a page", f"> 用户: 画一只狐狸\n\n[![fox]({A})](https://www.example.com/view/5)", [A]),
    Case("the prompt above an image and a link", f"User: a fox\n\n![fox]({A})\n\n[Download]({B})", [A]),
    Case("a step above an image and a link", f"Step 1: ![fox]({A})\n\n[Download]({B})", [A]),
    Case("two images below one step", f"Step 1: (1) {A}\n(2) {B}", [A, B]),
    Case("a track of a race, with a signature", "![x](https://h.example/race-track.png?sig=1)", ["https://h.example/race-track.png?sig=1"]),
    Case("a badge at the site of its link", f"{A}\n\n[![Deploy](https://vercel.example/button)](https://vercel.example/new)", [A]),
    Case("a code for payments", f"![fox]({A})\n![支付宝]({LOGO[:-8]}a.jpg)", [A]),
    Case("works of other people", f"![fox]({A})\n\nOther users made:\n![s1]({B})", [A]),
    Case("a mask that is painted", f"![A fox with a mask]({A})\n![A fox in style]({B})", [A, B]),
    Case("a depth map that was asked for", f"Original: {A}\nDepth map: {B}", [A, B]),
    Case("a depth map alone", f"Depth map: {A}", [A]),
    Case("an original that leads to a page", f"[![Original]({A})](https://relay.example.net/view/5)", [A]),
    Case("a link to a large preview", f"Preview: [![x](https://h.example/t.png)]({A})", [A]),
    Case("a badge that leads to another site", f"{A}\n\n[![GitHub]({LOGO[:-8]}gh.png)](https://github.com/x/y)", [A]),
    Case("the image, which leads to another site", f"[![fox]({A})](https://gallery.example.org/1)", [A]),
    Case("the image, which leads to its own site, beside a link", f"{B}\n[![fox]({A})](https://www.example.com/1)", [A]),
    Case("the image, beside a link to its source", f"Source: {B}\n[![fox]({A})](https://gallery.example.org/1)", [A]),
    Case("the image, beside an example", f"For example {B}\n[![fox]({A})](https://gallery.example.org/1)", [A]),
    Case("a link that could not be read", f"Could not download {A} (403 Forbidden)", []),
    Case("a link that could not be read, in Chinese", f"无法处理您上传的图片 {A}，格式不支持", []),
    Case("a link for those who cannot get it", f"If you cannot download the image: {A}", [A]),
    Case("a link for those who cannot get it, in Chinese", f"如无法访问图片：{A}", [A]),
    Case("a link to click", f"无法访问请点击 {A}", [A]),
    Case("a link that could not be read, before a sentence", f"Error while downloading {A}.", []),
    Case("a link that may not open", f"If you cannot open the page, use this: {A}", [A]),
]  # fmt: skip
NO = "Sorry, I can't help with that request."
REFUSALS = [
    Case("an avatar before a refusal", f"![bot](https://relay.example.net/avatar.png) {NO}", []),
    Case("a banner behind a refusal", f"{NO}\n\n---\n![Join us](https://relay.example.net/ads/banner.png)", []),
    Case("an earlier result in a refusal", f"I can't help with that. My last one: ![previous]({A})", []),
    Case("an example in a refusal", f"内容审核未通过。参考示例：![示例]({A})", []),
    Case("a page of help in a refusal", "图片审核未通过。查看说明：https://docs.example.net/err/1.png", []),
    Case("a code to scan in a refusal", f"提示词违规。\n客服：![客服]({A})", []),
    Case("an avatar, and a refusal in its own field", {"content": f"![avatar]({LOGO})", "refusal": "No."}, []),
    Case("an avatar, and the reason to stop", {"content": f"![avatar]({LOGO})", "native_finish_reason": "SAFETY"}, []),
    Case("a preview in a refusal", f"![preview]({A})\nIt violates our policies.", [A]),
    Case("a result with words of a refusal", f"![fox]({A})\nUse must not violate our policies.", [A]),
    Case("a logo above rules", f"![logo]({LOGO})\n请注意版权。 Mind our content policy.", [LOGO]),
    Case("a logo above a rule for its use", f"![logo]({LOGO})\n请勿用于违规用途", [LOGO]),
    Case("a logo with nothing against it", f"![logo]({LOGO}) It contains nothing inappropriate.", [LOGO]),
    Case("a logo that does not violate anything", f"![logo]({LOGO}) It does not violate any trademark.", [LOGO]),
    Case("a logo beside advice on what to ask for", f"请勿提交违规内容\n![logo]({LOGO})", []),
    Case("a logo beside what is never painted", f"I do not paint inappropriate images. ![logo]({LOGO})", []),
    Case("a logo beside what did not pass", f"The prompt did not pass moderation. ![logo]({LOGO})", []),
    Case("a logo without a refusal", f"![logo]({LOGO})", [LOGO]),
]
CASES = [*MARKS, *FLAGS, *KEYS, *MARKUP, *STANDINGS, *REFUSALS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_the_results_are_found(case: Case) -> None:
    message = {"content": case.message} if isinstance(case.message, str) else case.message
    reply = read_reply(orjson.dumps({"choices": [{"message": message}]}))
    assert [image.url for image in find_images(reply)] == case.found


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a fox", []),
        ("a logo for a shop", [LOGO]),
        ("an icon for a shop", [LOGO]),
        ("a sign that violates physics", [LOGO]),
    ],
)
def test_words_of_the_prompt_make_no_refusal_of_a_reply(prompt: str, found: list[str]) -> None:
    body = {"choices": [{"message": {"content": f"It violates a trademark. ![logo]({LOGO})"}}]}
    assert [image.url for image in find_images(read_reply(orjson.dumps(body)), [prompt])] == found


def test_an_image_of_a_refusal_is_rejected_with_its_reason() -> None:
    body = {"choices": [{"message": {"content": f"{NO} ![logo]({LOGO})"}}]}
    rejected = explain(read_reply(orjson.dumps(body))).rejected
    assert [each.reason for each in rejected] == ["the model declines, and the image is for another purpose"]


@pytest.mark.parametrize(
    ("prompt", "found"),
    [("design a logo for my cafe", [A]), ("a cafe", [B]), ("an avatar for my cafe", [B]), ("paint logorrhea", [B])],
)
def test_a_logo_that_was_asked_for_counts_more_than_a_preview(prompt: str, found: list[str]) -> None:
    body = {"choices": [{"message": {"content": f"![Logo]({A})\n\nPreview: ![preview]({B})"}}]}
    assert [image.url for image in find_images(read_reply(orjson.dumps(body)), [prompt])] == found


def test_a_logo_that_was_asked_for_counts_less_than_the_logo_made_of_it() -> None:
    body = {"choices": [{"message": {"content": f"![Logo]({A}) → ![Logo]({B})"}}]}
    assert [image.url for image in find_images(read_reply(orjson.dumps(body)), ["turn the logo red"])] == [B]
