"""Replies without an image: refusals, and models that only talk."""

import re
from dataclasses import dataclass, replace

import orjson
import pytest

from app.errors import ApiError, ModerationBlocked, NoImageInReply, UpstreamInvalidReply
from app.extraction.refusal import is_refusal, no_image_error, shows_samples
from app.protocol.chat_reply import ChatReply
from app.protocol.reply_parser import read_reply


def reply(content: object, **more: object) -> ChatReply:
    message = {"role": "assistant", "content": content, **{key: more[key] for key in ("refusal",) if key in more}}
    choice = {"index": 0, "message": message, "finish_reason": more.get("finish_reason", "stop")}
    return read_reply(orjson.dumps({"choices": [choice]}))


@dataclass(frozen=True)
class Case:
    name: str
    reply: ChatReply
    refused: bool


CASES = [
    Case("a policy is named", reply("I can't generate that image. It violates our usage policies: https://openai.com/policies."), True),
    Case("a safety system is named", reply("Your request was rejected by our safety system."), True),
    Case("help is declined", reply("I'm sorry, but I can’t help with that."), True),
    Case("in Chinese", reply("抱歉，您的请求违反了内容政策，无法生成图片。"), True),
    Case("in Japanese", reply("コンテンツポリシーに違反しているため、生成できません。"), True),
    Case("in German", reply("Das Bild verstößt gegen unsere Inhaltsrichtlinien."), True),
    Case("in French", reply("Cette image enfreint notre politique de contenu."), True),
    Case("in Spanish", reply("La solicitud fue bloqueada por el filtro de seguridad."), True),
    Case("in Portuguese", reply("A imagem viola a nossa política de conteúdo."), True),
    Case("in Italian", reply("Questa immagine viola le nostre norme sui contenuti."), True),
    Case("in Dutch", reply("Dit is in strijd met ons inhoudsbeleid."), True),
    Case("in Polish", reply("Ten obraz narusza zasady dotyczące treści."), True),
    Case("in Russian", reply("Запрос отклонён системой безопасности."), True),
    Case("in Ukrainian", reply("Зображення порушує політику щодо вмісту."), True),
    Case("in Turkish", reply("İçerik politikalarımızı ihlal ediyor."), True),
    Case("in Swedish", reply("Bilden bryter mot vår innehållspolicy."), True),
    Case("in Korean", reply("이 이미지는 콘텐츠 정책에 위배되어 생성할 수 없습니다."), True),
    Case("in traditional Chinese", reply("抱歉，這個請求違反我們的內容政策。"), True),
    Case("in Arabic", reply("لا يمكنني إنشاء هذه الصورة لأنها تنتهك سياسة المحتوى."), True),
    Case("in Hindi", reply("यह हमारी सामग्री नीति का उल्लंघन करती है।"), True),
    Case("in Vietnamese", reply("Hình ảnh này vi phạm chính sách nội dung."), True),
    Case("in Indonesian", reply("Gambar ini melanggar kebijakan konten kami."), True),
    Case("in Thai", reply("ไม่สามารถสร้างภาพนี้ได้เนื่องจากละเมิดนโยบายเนื้อหา"), True),
    Case("in Norwegian", reply("Jeg kan ikke lage dette bildet. Det bryter med retningslinjene våre."), True),
    Case("in Danish", reply("Billedet er i strid med vores regler."), True),
    Case("in Finnish", reply("Pyyntö on vastoin sisältökäytäntöjämme."), True),
    Case("in Czech", reply("Požadavek porušuje zásady obsahu."), True),
    Case("in Croatian", reply("Ovaj zahtjev krši pravila."), True),
    Case("in Hungarian", reply("A kérés sérti a tartalmi irányelveket."), True),
    Case("in Romanian", reply("Cererea încalcă politica de conținut."), True),
    Case("in Greek", reply("Το αίτημα παραβιάζει την πολιτική περιεχομένου."), True),
    Case("in Persian", reply("این درخواست نقض خط‌مشی محتوا است."), True),
    Case("in Hebrew", reply("הבקשה אינה תואמת את מדיניות התוכן."), True),
    Case("a musical instrument", reply("Which viola do you mean, the instrument or the flower?"), False),
    Case("a page about privacy", reply("Inicia sesión. Política de privacidad: https://x.example/p"), False),
    Case("content is called inappropriate", reply("This prompt is inappropriate."), True),
    Case("the refusal stands in its own field", reply(None, refusal="No."), True),
    Case("a filter cut the reply off", reply(None, finish_reason="content_filter"), True),
    Case("a filter of another vendor", reply("", finish_reason="SAFETY"), True),
    Case("a busy queue", reply("Lots of people are creating images right now, so this might take a bit."), False),
    Case("a busy queue in Chinese", reply("目前有很多人在创建图片，因此可能需要一点时间。"), False),
    Case("a model that cannot draw", reply("This model cannot draw. See the documentation for details."), False),
    Case("a question back", reply("Which colour should the fox have?"), False),
    Case("a failure", reply("Failed to load the image."), False),
    Case("silence", reply(""), False),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_reply_without_an_image_is_a_refusal_or_not(case: Case) -> None:
    assert is_refusal(case.reply) is case.refused
    error = no_image_error(case.reply)
    assert type(error) is (ModerationBlocked if case.refused else NoImageInReply)
    assert error.detail == case.reply.raw


SAMPLES = [
    ("an apology", "Sorry, I can only describe it.", ["https://example.com/a.png"], True),
    ("a refusal", "It violates our content policy.", ["https://images.example/a.png", "http://a.test"], True),
    ("an apology in Chinese", "抱歉，我无法生成图片", ["https://cdn.example.org:8443/a.png"], True),
    ("a promise", "Here it is:", ["https://example.com/a.png"], False),
    (
        "a host of somebody",
        "Sorry for the delay.",
        ["https://example.com/a.png", "https://notexample.com/a.png"],
        False,
    ),
    ("a host in a path", "Sorry for the delay.", ["https://cdn.com/@x.example/a.png"], False),
    ("no image", "Sorry, no.", [], False),
]


@pytest.mark.parametrize(("name", "text", "urls", "expected"), SAMPLES, ids=[case[0] for case in SAMPLES])
def test_a_reply_that_declines_may_show_addresses_for_documentation(
    name: str, text: str, urls: list[str], expected: bool
) -> None:
    assert shows_samples(reply(text), urls) is expected


@pytest.mark.parametrize(("content", "message"), [("", "It said nothing."), ("two\n  words", "It said: two words")])
def test_the_words_of_the_model_are_quoted(content: str, message: str) -> None:
    assert no_image_error(reply(content)).message.endswith(message)


def test_no_reply_at_all_is_an_invalid_reply() -> None:
    error: ApiError = no_image_error(None)
    assert isinstance(error, UpstreamInvalidReply)


def test_long_words_are_truncated() -> None:
    assert no_image_error(reply("a" * 300)).message.endswith("It said: " + "a" * 300)
    assert no_image_error(reply("a" * 301)).message.endswith("It said: " + "a" * 299 + "…")


WORDS = [
    ("see https://example.com/a1b2", "see https://example.com/a1b2"),
    ("dial tcp 10.0.0.5:8080: refused", "dial tcp [address]: refused"),
    ("http://relay.internal:3000/v1 is down", "http://[address]/v1 is down"),
    ("Bearer sk-limner-test-0123 is wrong", "Bearer [key] is wrong"),
    ("the key hush-hush has no quota", "the key [key] has no quota"),
    (f"![a](data:image/png;base64,iVBORw0KGgo{'A' * 60})", "![a]()"),
]


@pytest.mark.parametrize(("content", "message"), WORDS)
def test_keys_and_inner_addresses_are_not_quoted(content: str, message: str) -> None:
    error = no_image_error(replace(reply(content), secrets=("hush-hush",)))
    assert error.message.endswith(f"It said: {message}")
    assert not re.search("hush|sk-", str(error.detail))
