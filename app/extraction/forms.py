"""Where images hide in a chat reply, most explicit form first."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

from app.extraction.base64_runs import Base64Run
from app.extraction.filters import CandidateFilter, announces_result, is_secondary, is_unrelated
from app.extraction.mentions import IMAGE_MARKUP, MarkupKind, UrlMention
from app.extraction.structured import JsonWalker, is_auxiliary_key
from app.extraction.text import ReplyText
from app.extraction.urls import UrlKind, classify_url, file_name
from app.protocol.chat_reply import ChatReply
from app.protocol.validation_errors import truncate


@dataclass(frozen=True, slots=True)
class FoundImage:
    """`url`: an http(s) address, or a data URL in the one spelling; `form`: the name of a row of FORMS; `is_lesser`: a
    preview or the like, found because there is nothing better."""

    url: str
    form: str
    is_secondary: bool = False


@dataclass(frozen=True, slots=True)
class RejectedCandidate:
    """`candidate`: shortened; `reason`: in plain words."""

    candidate: str
    form: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExtractionResult:
    images: tuple[FoundImage, ...]
    rejected: tuple[RejectedCandidate, ...]


@dataclass(frozen=True, slots=True)
class ImageCandidate:
    """`is_lesser`: a preview, an advertisement, the picture before: taken only where nothing better is found."""

    value: str | Base64Run
    is_secondary: bool = False
    rejection: str = ""


class UrlBudget:
    """Addresses that are still looked at in one reply; more are no answer to one question."""

    remaining = 500


class MessageContent:
    """One message, or what stands beside the messages."""

    def __init__(self, parts: JsonWalker, fields: JsonWalker, said: Iterable[str], budget: UrlBudget) -> None:
        self.part_walker = parts
        self.field_walker = fields
        self._budget = budget
        self._said = (*said, *parts.texts, *fields.texts)

    @property
    def is_empty(self) -> bool:
        return not (self.part_walker.fields or self.field_walker.fields or any(self._said))

    @cached_property
    def texts(self) -> list[ReplyText]:
        """Texts that are JSON hold further texts."""
        texts = [ReplyText(raw) for raw in self._said[: UrlBudget.remaining] if raw]
        for text in texts:
            if len(texts) < UrlBudget.remaining:
                texts.extend(text.nested_texts(text.whole_json))
                texts.extend(text.nested_texts(text.embedded_json))
        return texts

    @cached_property
    def mentions(self) -> list[tuple[ReplyText, UrlMention]]:
        found: list[tuple[ReplyText, UrlMention]] = []
        for text in self.texts:
            if self._budget.remaining > 0:
                found.extend((text, mention) for mention in text.mentions)
                self._budget.remaining -= len(text.mentions)
        return found


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """Forms of one `rank` are equally explicit; a later rank is asked only where the ones before found nothing."""

    name: str
    rank: int
    find: Callable[[MessageContent], Iterable[ImageCandidate]]


def _in_walk(walk: JsonWalker) -> Iterator[ImageCandidate]:
    for each in walk.fields:
        yield ImageCandidate(each.value, is_secondary=isinstance(each.value, str) and is_secondary("", "", each.value))


def _in_parts(source: MessageContent) -> Iterator[ImageCandidate]:
    return _in_walk(source.part_walker)


def _in_fields(source: MessageContent) -> Iterator[ImageCandidate]:
    return _in_walk(source.field_walker)


def _in_whole_json(source: MessageContent) -> Iterator[ImageCandidate]:
    return (candidate for text in source.texts for candidate in _in_walk(text.whole_json))


def _in_inner_json(source: MessageContent) -> Iterator[ImageCandidate]:
    return (candidate for text in source.texts for candidate in _in_walk(text.embedded_json))


def _in_pictures(kind: MarkupKind) -> Callable[[MessageContent], Iterable[ImageCandidate]]:
    def find(source: MessageContent) -> Iterable[ImageCandidate]:
        return (_picture(text, mention) for text, mention in source.mentions if mention.kind is kind)

    return find


def _picture(text: ReplyText, mention: UrlMention) -> ImageCandidate:
    """A small copy inside a link to the full one stands for that one."""
    around = mention.enclosing_link
    lesser = is_secondary(mention.before, mention.label, mention.url)
    if around is not None and lesser:
        if classify_url(around.url) is UrlKind.IMAGE:
            return ImageCandidate(around.url)
        return ImageCandidate(mention.url, rejection="it is a small copy that leads to a page")
    return _candidate(text, mention, lesser)


def _candidate(text: ReplyText, mention: UrlMention, lesser: bool) -> ImageCandidate:
    rejection = ""
    if is_unrelated(mention.before, mention.label) or is_auxiliary_key(mention.key):
        rejection = "the words around it say that it is not the result"
    elif text.has_video:
        rejection = "the reply is a video, and this its poster"
    elif mention.is_truncated and classify_url(mention.url) is not UrlKind.IMAGE:
        rejection = "it is cut off"
    return ImageCandidate(text.run_of(mention) or mention.url, lesser, rejection)


def _in_data_urls(source: MessageContent) -> Iterator[ImageCandidate]:
    return _pieces(source, is_data_url=True)


def _in_base64(source: MessageContent) -> Iterator[ImageCandidate]:
    return _pieces(source, is_data_url=False)


def _pieces(source: MessageContent, *, is_data_url: bool) -> Iterator[ImageCandidate]:
    for text, mention in source.mentions:
        piece = text.run_of(mention)
        if piece is not None and bool(piece.prefix) is is_data_url and mention.kind not in IMAGE_MARKUP:
            yield _candidate(text, mention, lesser=False)


def _in_links(source: MessageContent) -> Iterator[ImageCandidate]:
    return _addresses(source, MarkupKind.LINK)


def _in_plain(source: MessageContent) -> Iterator[ImageCandidate]:
    return _addresses(source, MarkupKind.PLAIN)


def _addresses(source: MessageContent, kind: MarkupKind) -> Iterator[ImageCandidate]:
    for text, mention in source.mentions:
        if mention.kind is kind and classify_url(mention.url) is UrlKind.IMAGE:
            yield _candidate(text, mention, is_secondary(mention.before, mention.label, mention.url))


def _in_named_addresses(source: MessageContent) -> Iterator[ImageCandidate]:
    """Addresses that look like nothing, where the words around say that they are the result."""
    for text, mention in source.mentions:
        is_address = mention.kind not in IMAGE_MARKUP and text.run_of(mention) is None
        if is_address and classify_url(mention.url) is UrlKind.UNKNOWN and _is_named(text, mention):
            yield _candidate(text, mention, lesser=False)


def _is_named(text: ReplyText, mention: UrlMention) -> bool:
    is_alone = len(text.visible.strip()) <= len(mention.url) + 4
    return is_alone or announces_result(mention.before, mention.label)


#: In the order of their ranks.
FORMS = (
    ReplyForm("content-part", 0, _in_parts),
    ReplyForm("field", 1, _in_fields),
    ReplyForm("json", 2, _in_whole_json),
    ReplyForm("markdown-image", 3, _in_pictures(MarkupKind.MARKDOWN)),
    ReplyForm("html-image", 3, _in_pictures(MarkupKind.HTML)),
    ReplyForm("bbcode-image", 3, _in_pictures(MarkupKind.BBCODE)),
    ReplyForm("data-url", 4, _in_data_urls),
    ReplyForm("base64", 5, _in_base64),
    ReplyForm("embedded-json", 6, _in_inner_json),
    ReplyForm("link", 7, _in_links),
    ReplyForm("address", 7, _in_plain),
    ReplyForm("named-address", 8, _in_named_addresses),
)


def find_images(reply: ChatReply, sent: Collection[str] = ()) -> list[FoundImage]:
    """Each image once, in order of appearance. `sent`: URLs that the client itself had sent, which are no results."""
    return list(explain(reply, sent).images)


def explain(reply: ChatReply, sent: Collection[str] = ()) -> ExtractionResult:
    """What was found, and why everything else that looked like an image was dropped."""
    search = _Extractor(CandidateFilter(sent))
    budget = UrlBudget()
    messages = [search.extract(_message(message, budget)) for message in reply.messages]
    found = [image for images in messages for image in images]
    structured = {form.name for form in FORMS if form.rank <= 1}
    if not any(image.form in structured for image in found):
        beside = search.extract(_bodies(reply.bodies, budget))
        if not found or any(image.form in structured for image in beside):
            found = beside
    once = {image.url: image for image in reversed(found)}
    return ExtractionResult(tuple(reversed(once.values())), tuple(dict.fromkeys(search.rejected)))


def _message(message: Mapping[str, Any], budget: UrlBudget) -> MessageContent:
    parts, fields = JsonWalker(), JsonWalker()
    parts.walk(message["parts"])
    fields.walk({key: value for key, value in message.items() if key not in {"content", "parts"}})
    return MessageContent(parts, fields, [message["content"]], budget)


def _bodies(bodies: Iterable[Mapping[str, Any]], budget: UrlBudget) -> MessageContent:
    walk = JsonWalker()
    walk.walk(list(bodies))
    return MessageContent(JsonWalker(), walk, (), budget)


@dataclass(slots=True)
class _Extractor:
    candidate_filter: CandidateFilter
    rejected: list[RejectedCandidate] = field(default_factory=list)

    def extract(self, source: MessageContent) -> list[FoundImage]:
        """The first rank that finds an image of full value; else the first that finds a lesser one."""
        lesser: list[FoundImage] = []
        if source.is_empty:
            return lesser
        for _, forms in groupby(FORMS, lambda form: form.rank):
            found = [each for form in forms for each in self._accepted(form, source)]
            if full := _drop_downloads([image for image, is_full in found if is_full]):
                self._drop_lesser(found)
                return full
            lesser = lesser or [image for image, _ in found]
        return lesser

    def _accepted(self, form: ReplyForm, source: MessageContent) -> Iterator[tuple[FoundImage, bool]]:
        for candidate in form.find(source):
            url, reason = (
                ("", candidate.rejection) if candidate.rejection else self.candidate_filter.check(candidate.value)
            )
            if url:
                yield FoundImage(url, form.name, candidate.is_secondary), not candidate.is_secondary
            else:
                self.rejected.append(RejectedCandidate(_shorten(candidate.value), form.name, reason))

    def _drop_lesser(self, found: Iterable[tuple[FoundImage, bool]]) -> None:
        for image, is_full in found:
            if not is_full:
                reason = "it is a preview, an advertisement or the like beside the result"
                self.rejected.append(RejectedCandidate(_shorten(image.url), image.form, reason))


def _drop_downloads(images: list[FoundImage]) -> list[FoundImage]:
    """A link to save a picture brings the same file again."""
    if len(images) < 2:
        return images
    names = {file_name(image.url) for image in images if "download" not in image.url}
    return [image for image in images if "download" not in image.url or file_name(image.url) not in names]


def _shorten(value: str | Base64Run) -> str:
    text = value.prefix + value.payload[:80] if isinstance(value, Base64Run) else value
    return truncate(text, 200)
