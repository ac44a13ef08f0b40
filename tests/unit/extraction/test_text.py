"""Texts of a reply, prepared for searching."""

from app.extraction.base64_runs import Base64Run
from app.extraction.text import ReplyText, visible_text
from app.protocol.chat_reply import ChatReply
from tests.support.image_files import PNG_BASE64 as PNG

URL = "https://a.example/x.png"


def test_a_text_without_urls_counts_as_empty() -> None:
    assert ReplyText("hello").visible == ""
    assert ReplyText("<html><img src='https://a.example/x.png'>").mentions == []


def test_escapes_and_entities_are_decoded() -> None:
    assert ReplyText("https:\\/\\/a.example\\/x\\_y?a=1\\u0026b=2").visible == "https://a.example/x_y?a=1&b=2"
    assert ReplyText("&lt;img src=&quot;https://a.example/x&quot;&gt;").visible == '<img src="https://a.example/x">'


def test_base64_is_cut_out_once() -> None:
    text = ReplyText(f"![x](base64://{PNG})")
    (mention,) = text.mentions
    assert text.run_of(mention) == Base64Run("data:;base64,", PNG)


def test_a_json_document_is_walked_in_place_of_searched() -> None:
    text = ReplyText(f'{{"thumbnail":"{URL}","image":"{URL}"}}')
    assert text.mentions == []
    assert [each.value for each in text.whole_json.fields] == [URL]


def test_json_in_code_blocks_and_between_words_is_walked() -> None:
    text = ReplyText(f'a ```json\n{{"url":"{URL}1"}}\n``` b [{{"url":"{URL}2"}}] c')
    assert [each.value for each in text.embedded_json.fields] == [f"{URL}1", f"{URL}2"]


def test_texts_inside_texts_are_read_down_to_a_depth() -> None:
    depth, texts = 0, [ReplyText(f'"\\"\\\\\\"{URL}\\\\\\"\\""')]
    while texts:
        depth += 1
        texts = [inner for text in texts for inner in text.nested_texts(text.whole_json)]
    assert 2 <= depth <= 4


def test_videos_are_recognized_in_the_text_and_around_images() -> None:
    text = ReplyText(f"https://a.example/x.mp4 {URL} [![still]({URL})](https://a.example/y.webm)")
    assert text.videos == {"https://a.example/x.mp4", "https://a.example/y.webm"}


def test_words_are_looked_for_in_as_much_as_is_read() -> None:
    """A whole text of 4 MiB takes 0.2 s, in which nothing else happens."""
    reply = ChatReply(messages=({"content": "a fox " * 10**6, "parts": ()},))
    assert visible_text(reply).startswith("a fox a fox")
    assert len(visible_text(reply)) < 10**6
