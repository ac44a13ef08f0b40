"""Where images hide in a chat reply, most explicit form first."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

from app.extraction.base64_runs import Piece
from app.extraction.filters import Judge, is_foreign, is_lesser, names_result
from app.extraction.mentions import PICTURES, Kind, Mention
from app.extraction.structured import Walk, is_aside_key
from app.extraction.text import Text
from app.extraction.urls import Look, file_name, look_of
from app.protocol.chat_reply import ChatReply
from app.protocol.validation_errors import cut


@dataclass(frozen=True, slots=True)
class FoundImage:
    """`url`: an http(s) address, or a data URL in the one spelling; `form`: the name of a row of FORMS; `is_lesser`: a
    preview or the like, found because there is nothing better."""

    url: str
    form: str
    is_lesser: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """`candidate`: shortened; `reason`: in plain words."""

    candidate: str
    form: str
    reason: str


@dataclass(frozen=True, slots=True)
class Findings:
    found: tuple[FoundImage, ...]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """`is_lesser`: a preview, an advertisement, the picture before: taken only where nothing better is found."""

    value: str | Piece
    is_lesser: bool = False
    why_not: str = ""


class Budget:
    """Addresses that are still looked at in one reply; more are no answer to one question."""

    left = 500


class Source:
    """One message, or what stands beside the messages."""

    def __init__(self, parts: Walk, fields: Walk, said: Iterable[str], budget: Budget) -> None:
        self.parts = parts
        self.fields = fields
        self._budget = budget
        self._said = (*said, *parts.texts, *fields.texts)

    @property
    def is_empty(self) -> bool:
        return not (self.parts.fields or self.fields.fields or any(self._said))

    @cached_property
    def texts(self) -> list[Text]:
        """Texts that are JSON hold further texts."""
        texts = [Text(raw) for raw in self._said[: Budget.left] if raw]
        for text in texts:
            if len(texts) < Budget.left:
                texts.extend(text.texts(text.whole))
                texts.extend(text.texts(text.inner))
        return texts

    @cached_property
    def mentions(self) -> list[tuple[Text, Mention]]:
        found: list[tuple[Text, Mention]] = []
        for text in self.texts:
            if self._budget.left > 0:
                found.extend((text, mention) for mention in text.mentions)
                self._budget.left -= len(text.mentions)
        return found


@dataclass(frozen=True, slots=True)
class Form:
    """Forms of one `rank` are equally explicit; a later rank is asked only where the ones before found nothing."""

    name: str
    rank: int
    find: Callable[[Source], Iterable[Candidate]]


def _in_walk(walk: Walk) -> Iterator[Candidate]:
    for each in walk.fields:
        yield Candidate(each.value, is_lesser=isinstance(each.value, str) and is_lesser("", "", each.value))


def _in_parts(source: Source) -> Iterator[Candidate]:
    return _in_walk(source.parts)


def _in_fields(source: Source) -> Iterator[Candidate]:
    return _in_walk(source.fields)


def _in_whole_json(source: Source) -> Iterator[Candidate]:
    return (candidate for text in source.texts for candidate in _in_walk(text.whole))


def _in_inner_json(source: Source) -> Iterator[Candidate]:
    return (candidate for text in source.texts for candidate in _in_walk(text.inner))


def _in_pictures(kind: Kind) -> Callable[[Source], Iterable[Candidate]]:
    def find(source: Source) -> Iterable[Candidate]:
        return (_picture(text, mention) for text, mention in source.mentions if mention.kind is kind)

    return find


def _picture(text: Text, mention: Mention) -> Candidate:
    """A small copy inside a link to the full one stands for that one."""
    around = mention.around
    lesser = is_lesser(mention.before, mention.label, mention.url)
    if around is not None and lesser:
        if look_of(around.url) is Look.IMAGE:
            return Candidate(around.url)
        return Candidate(mention.url, why_not="it is a small copy that leads to a page")
    return _candidate(text, mention, lesser)


def _candidate(text: Text, mention: Mention, lesser: bool) -> Candidate:
    why_not = ""
    if is_foreign(mention.before, mention.label) or is_aside_key(mention.key):
        why_not = "the words around it say that it is not the result"
    elif text.has_video:
        why_not = "the reply is a video, and this its poster"
    elif mention.is_cut and look_of(mention.url) is not Look.IMAGE:
        why_not = "it is cut off"
    return Candidate(text.piece(mention) or mention.url, lesser, why_not)


def _in_data_urls(source: Source) -> Iterator[Candidate]:
    return _pieces(source, is_data_url=True)


def _in_base64(source: Source) -> Iterator[Candidate]:
    return _pieces(source, is_data_url=False)


def _pieces(source: Source, *, is_data_url: bool) -> Iterator[Candidate]:
    for text, mention in source.mentions:
        piece = text.piece(mention)
        if piece is not None and bool(piece.head) is is_data_url and mention.kind not in PICTURES:
            yield _candidate(text, mention, lesser=False)


def _in_links(source: Source) -> Iterator[Candidate]:
    return _addresses(source, Kind.LINK)


def _in_plain(source: Source) -> Iterator[Candidate]:
    return _addresses(source, Kind.PLAIN)


def _addresses(source: Source, kind: Kind) -> Iterator[Candidate]:
    for text, mention in source.mentions:
        if mention.kind is kind and look_of(mention.url) is Look.IMAGE:
            yield _candidate(text, mention, is_lesser(mention.before, mention.label, mention.url))


def _in_named_addresses(source: Source) -> Iterator[Candidate]:
    """Addresses that look like nothing, where the words around say that they are the result."""
    for text, mention in source.mentions:
        is_address = mention.kind not in PICTURES and text.piece(mention) is None
        if is_address and look_of(mention.url) is Look.OPEN and _is_named(text, mention):
            yield _candidate(text, mention, lesser=False)


def _is_named(text: Text, mention: Mention) -> bool:
    is_alone = len(text.shown.strip()) <= len(mention.url) + 4
    return is_alone or names_result(mention.before, mention.label)


#: In the order of their ranks.
FORMS = (
    Form("content-part", 0, _in_parts),
    Form("field", 1, _in_fields),
    Form("json", 2, _in_whole_json),
    Form("markdown-image", 3, _in_pictures(Kind.MARKDOWN)),
    Form("html-image", 3, _in_pictures(Kind.HTML)),
    Form("bbcode-image", 3, _in_pictures(Kind.BBCODE)),
    Form("data-url", 4, _in_data_urls),
    Form("base64", 5, _in_base64),
    Form("embedded-json", 6, _in_inner_json),
    Form("link", 7, _in_links),
    Form("address", 7, _in_plain),
    Form("named-address", 8, _in_named_addresses),
)


def find_images(reply: ChatReply, sent: Collection[str] = ()) -> list[FoundImage]:
    """Each image once, in order of appearance. `sent`: URLs that the client itself had sent, which are no results."""
    return list(explain(reply, sent).found)


def explain(reply: ChatReply, sent: Collection[str] = ()) -> Findings:
    """What was found, and why everything else that looked like an image was dropped."""
    search = _Search(Judge(sent))
    budget = Budget()
    messages = [search.run(_message(message, budget)) for message in reply.messages]
    found = [image for images in messages for image in images]
    structured = {form.name for form in FORMS if form.rank <= 1}
    if not any(image.form in structured for image in found):
        beside = search.run(_bodies(reply.bodies, budget))
        if not found or any(image.form in structured for image in beside):
            found = beside
    once = {image.url: image for image in reversed(found)}
    return Findings(tuple(reversed(once.values())), tuple(dict.fromkeys(search.dropped)))


def _message(message: Mapping[str, Any], budget: Budget) -> Source:
    parts, fields = Walk(), Walk()
    parts.enter(message["parts"])
    fields.enter({key: value for key, value in message.items() if key not in {"content", "parts"}})
    return Source(parts, fields, [message["content"]], budget)


def _bodies(bodies: Iterable[Mapping[str, Any]], budget: Budget) -> Source:
    walk = Walk()
    walk.enter(list(bodies))
    return Source(Walk(), walk, (), budget)


@dataclass(slots=True)
class _Search:
    judge: Judge
    dropped: list[Dropped] = field(default_factory=list)

    def run(self, source: Source) -> list[FoundImage]:
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

    def _accepted(self, form: Form, source: Source) -> Iterator[tuple[FoundImage, bool]]:
        for candidate in form.find(source):
            url, reason = ("", candidate.why_not) if candidate.why_not else self.judge.judge(candidate.value)
            if url:
                yield FoundImage(url, form.name, candidate.is_lesser), not candidate.is_lesser
            else:
                self.dropped.append(Dropped(_shorten(candidate.value), form.name, reason))

    def _drop_lesser(self, found: Iterable[tuple[FoundImage, bool]]) -> None:
        for image, is_full in found:
            if not is_full:
                reason = "it is a preview, an advertisement or the like beside the result"
                self.dropped.append(Dropped(_shorten(image.url), image.form, reason))


def _drop_downloads(images: list[FoundImage]) -> list[FoundImage]:
    """A link to save a picture brings the same file again."""
    if len(images) < 2:
        return images
    names = {file_name(image.url) for image in images if "download" not in image.url}
    return [image for image in images if "download" not in image.url or file_name(image.url) not in names]


def _shorten(value: str | Piece) -> str:
    text = value.head + value.text[:80] if isinstance(value, Piece) else value
    return cut(text, 200)
