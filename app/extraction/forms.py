"""Find the images of a chat reply: a table of reply forms, tried from the most to the least explicit.

To add a form, write a function from a `MessageContent` to candidates and give it a row in `FORMS`. Every form needs a
sample reply in `tests/data/` that no other form covers.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from app.extraction.base64_runs import Base64Run
from app.extraction.candidates import ExtractionResult, FoundImage, ImageCandidate, RejectedCandidate
from app.extraction.copies import Copy, edge_of_label, is_larger_copy, read_copy, smaller_copies
from app.extraction.deletions import is_deleted
from app.extraction.filters import CandidateFilter, leads_to_larger_image
from app.extraction.guesses import unlikeliness
from app.extraction.mentions import IMAGE_MARKUP, MarkupKind, UrlMention
from app.extraction.message_content import MessageContent, Surroundings
from app.extraction.posters import is_poster
from app.extraction.refusal import declines
from app.extraction.standing import (
    Standing,
    is_name,
    is_sample_code,
    is_unrelated,
    last_clause,
    names_result,
    shows_example,
    standing_of,
    standing_of_copy,
)
from app.extraction.structured import NO_JSON, ImageField, is_unrelated_key, walk_json
from app.extraction.text import ReplyText
from app.extraction.tool_calls import images_in_calls, join_calls
from app.extraction.urls import UrlKind, classify_url, file_name, may_be_image, without_last_words
from app.extraction.words import UNCHANGED_WORDS
from app.protocol.chat_reply import ChatReply
from app.protocol.text_end import TextEnd
from app.protocol.validation_errors import truncate

#: Guesses of one reply that are downloaded at most.
_MAX_GUESSES = 4
#: Pairs of images that are compared to find out which is larger.
_MAX_COMPARED = 64
#: Pixels of an edge that a label must mean to lead to a larger copy than is shown: "HD", "Full size", "4K".
_LARGE = 2048
#: Why images are not taken: the first two beside better ones.
_SMALLER = "it is a smaller copy of the result"
_LESSER = "it is a preview, an advertisement or the like beside the result"
_DECLINED = "the model declines, and the image is for another purpose"
#: Characters of a rejected candidate that are shown.
MAX_CANDIDATE = 200


@dataclass(frozen=True, slots=True)
class ReplyForm:
    """One way in which replies carry images.

    Attributes:
        rank: Forms of one rank are equally explicit. A later rank is tried only if the ranks before found nothing.
        find: Yields the candidates of a message in this form, in order of appearance.
    """

    name: str
    rank: int
    find: Callable[[MessageContent], Iterable[ImageCandidate]]


def _from_field(each: ImageField) -> ImageCandidate:
    standing = Standing.PREVIEW if each.is_secondary else Standing.RESULT
    if not isinstance(each.value, str):
        return ImageCandidate(each.value, standing)
    return ImageCandidate(each.value, standing or standing_of("", "", each.value), shown_as=("", ""))


def _in_parts(content: MessageContent) -> Iterable[ImageCandidate]:
    return map(_from_field, content.part_walker.fields)


def _in_fields(content: MessageContent) -> Iterable[ImageCandidate]:
    return map(_from_field, content.field_walker.fields)


def _in_whole_json(content: MessageContent) -> Iterable[ImageCandidate]:
    return [_from_field(each) for text in content.texts for each in text.whole_json.fields]


def _in_embedded_json(content: MessageContent) -> Iterable[ImageCandidate]:
    return [_from_field(each) for text in content.texts for each in text.embedded_json.fields]


def _in_markup(kind: MarkupKind) -> Callable[[MessageContent], Iterable[ImageCandidate]]:
    def find(content: MessageContent) -> Iterator[ImageCandidate]:
        for text, mention in content.mentions:
            if mention.kind is kind:
                yield from _shown_images(content, text, mention)

    return find


def _shown_images(content: MessageContent, text: ReplyText, mention: UrlMention) -> Iterator[ImageCandidate]:
    """Yield the candidates of an image in markup. One that links to a larger image stands for that image."""
    link = None if mention.enclosing_link is None or mention.enclosing_link.is_open else mention.enclosing_link
    candidate = _candidate(content, text, mention, is_decoration=mention.is_icon or content.is_button(mention))
    if link is not None and text.run_of(mention) is None and leads_to_larger_image(link.url, mention.url):
        standing = standing_of_copy(mention.before, mention.label)
        yield replace(candidate, value=link.url, standing=standing, shown_as=None)
        candidate = replace(candidate, standing=max(candidate.standing, Standing.PREVIEW))
    elif link is not None and candidate.standing > Standing.DOUBTFUL:
        candidate = replace(candidate, rejection="it is a small copy that leads to a page")
    yield candidate


def _candidate(
    content: MessageContent, text: ReplyText, mention: UrlMention, *, is_decoration: bool = False
) -> ImageCandidate:
    rejection, run = "", text.run_of(mention)
    standing = standing_of(mention.before, mention.label, mention.url)
    if standing is Standing.DECORATION and content.is_asked_for(mention):
        standing = Standing.DOUBTFUL
    is_example = shows_example(mention.before, mention.label)
    if is_decoration or is_example:
        standing = Standing.DECORATION
    elif mention.is_converted or content.is_unchanged(mention):
        standing = max(standing, Standing.INPUT)
    elif is_deleted(text.visible, mention.start, mention.end):
        standing = max(standing, Standing.PREVIEW)
    is_shown = mention.kind in IMAGE_MARKUP
    if (
        is_unrelated(mention.before, mention.label)
        or is_unrelated_key(mention.key)
        or text.is_skipped(mention)
        or (is_example and not is_shown)
    ):
        rejection = "the words around it say that it is not the result"
    elif run is None and not is_shown and is_sample_code(mention.before):
        rejection = "it stands in a command"
    elif is_poster(mention, text.videos):
        rejection = "it is the poster of a video"
    elif run is None and text.cuts(mention):
        rejection = "it is cut off"
    shown_as = (last_clause(mention.before), mention.label) if run is None else None
    is_open = run is None and mention.is_open
    return ImageCandidate(run or mention.url, standing, rejection, 0, shown_as, is_open)


def _in_data_urls(content: MessageContent) -> Iterator[ImageCandidate]:
    return _in_base64_runs(content, is_data_url=True)


def _in_bare_base64(content: MessageContent) -> Iterator[ImageCandidate]:
    return _in_base64_runs(content, is_data_url=False)


def _in_base64_runs(content: MessageContent, *, is_data_url: bool) -> Iterator[ImageCandidate]:
    for text, mention in content.mentions:
        run = text.run_of(mention)
        if run is not None and bool(run.prefix) is is_data_url and mention.kind not in IMAGE_MARKUP:
            yield _candidate(content, text, mention)


def _in_image_urls(kind: MarkupKind) -> Callable[[MessageContent], Iterable[ImageCandidate]]:
    def find(content: MessageContent) -> Iterator[ImageCandidate]:
        for text, mention in content.mentions:
            if mention.kind is kind and classify_url(mention.url) is UrlKind.IMAGE:
                yield _candidate(content, text, mention)

    return find


def _in_link_labels(content: MessageContent) -> Iterator[ImageCandidate]:
    """Yield links to images that nothing speaks against: 原图 may as well be the image before a change."""
    for kind in (MarkupKind.LINK, MarkupKind.PLAIN):
        for candidate in _in_image_urls(kind)(content):
            is_doubtful = candidate.is_open or any(map(UNCHANGED_WORDS.search, candidate.shown_as or ()))
            if not (candidate.standing or candidate.rejection or is_doubtful):
                yield candidate


def _in_bare_urls(content: MessageContent) -> Iterator[ImageCandidate]:
    """Yield URLs that may lead to anything. Words decide only which of them is looked at first."""
    for text, mention in content.mentions:
        is_url = mention.kind not in IMAGE_MARKUP and text.run_of(mention) is None
        is_open = may_be_image(mention.url) or is_sample_code(mention.before)
        is_cut = mention.is_truncated or text.cuts(mention)
        if is_url and is_open and not (is_cut or is_poster(mention, text.videos)):
            # A URL that is all that the text says, but for its markup, is the answer.
            is_alone = len(text.visible.strip()) <= len(mention.url) + 4
            words = unlikeliness(mention.before, mention.label, mention.url)
            unlikely = words - 2 * is_alone - text.has_own_line(mention) + is_unrelated_key(mention.key)
            unlikely += is_deleted(text.visible, mention.start, mention.end)
            yield ImageCandidate(mention.url, unlikeliness=unlikely)
            if (shorter := without_last_words(mention.url)) != mention.url:
                yield ImageCandidate(shorter, unlikeliness=unlikely + 1)
    if content.origin:
        for path in [path for text in content.texts for path in text.paths]:
            yield ImageCandidate(content.origin + path, unlikeliness=unlikeliness("", "", path) - 1)


def _in_tool_calls(content: MessageContent) -> Iterator[ImageCandidate]:
    return (ImageCandidate(each.value) for walker in content.walkers for each in images_in_calls(walker.calls))


def _in_unknown_fields(content: MessageContent) -> Iterator[ImageCandidate]:
    """Yield URLs of JSON whose keys do not say what they are."""
    for walker in content.walkers:
        for url in walker.unknown:
            if not url.startswith("/") or url.startswith("//"):
                yield ImageCandidate(url, unlikeliness=unlikeliness("", "", url))
            elif content.origin:
                yield ImageCandidate(content.origin + url, unlikeliness=unlikeliness("", "", url))


#: In the order of their ranks.
FORMS = (
    ReplyForm("content-part", 0, _in_parts),
    ReplyForm("field", 1, _in_fields),
    ReplyForm("json", 2, _in_whole_json),
    ReplyForm("markdown-image", 3, _in_markup(MarkupKind.MARKDOWN)),
    ReplyForm("html-image", 3, _in_markup(MarkupKind.HTML)),
    ReplyForm("bbcode-image", 3, _in_markup(MarkupKind.BBCODE)),
    ReplyForm("data-url", 4, _in_data_urls),
    ReplyForm("base64", 5, _in_bare_base64),
    ReplyForm("embedded-json", 6, _in_embedded_json),
    ReplyForm("link", 7, _in_image_urls(MarkupKind.LINK)),
    ReplyForm("address", 7, _in_image_urls(MarkupKind.PLAIN)),
    ReplyForm("tool-call", 8, _in_tool_calls),
    ReplyForm("guessed-field", 9, _in_unknown_fields),
    ReplyForm("guessed-address", 9, _in_bare_urls),
)
#: The forms that need no text to be searched: those of the first two ranks.
_STRUCTURED = frozenset(form.name for form in FORMS if form.rank < 2)
#: The forms that show an image in the markup of a text.
_MARKUP_FORMS = frozenset(form.name for form in FORMS if form.rank == 3)
#: The rank of the forms whose candidates are only guesses.
_GUESSES = 9


def ranks_of(forms: Iterable[ReplyForm]) -> list[list[ReplyForm]]:
    """Return the forms by rank, without those that are guesses."""
    return [[*equals] for rank, equals in groupby(forms, lambda form: form.rank) if rank != _GUESSES]


RANKS = ranks_of(FORMS)


def find_images(
    reply: ChatReply, sent: Collection[str] = (), *, takes_open: Callable[[str], bool] = lambda _: True
) -> list[FoundImage]:
    """Return each image of the reply once, in order of appearance.

    An image that appears several times counts at its last place, in the form of its first one.

    Args:
        reply: The reply.
        sent: URLs of the request's own images, which are not results.
        takes_open: Whether a URL in whose middle the reply may end counts.
    """
    return list(_search(reply, _Extractor(CandidateFilter(sent), takes_open)))


def find_guesses(reply: ChatReply, sent: Collection[str] = ()) -> list[FoundImage]:
    """Return the URLs that may lead to an image although nothing says so, the likeliest first, a few at most."""
    extractor = _Extractor(CandidateFilter(sent))
    around = Surroundings(reply.upstream_origin, extractor.candidate_filter.client)
    contents = _contents_of(reply, around)
    contents.append(_content_beside(reply, around))
    guesses = sorted((guess for content in contents for guess in extractor.guess(content)), key=lambda each: each[0])
    unique = {guess.url: guess for _, guess in reversed(guesses)}
    return list(reversed(unique.values()))[:_MAX_GUESSES]


def explain(reply: ChatReply, sent: Collection[str] = ()) -> ExtractionResult:
    """Return the images of the reply, what may be one, and why everything else was rejected."""
    extractor = _Extractor(CandidateFilter(sent))
    images = tuple(_search(reply, extractor))
    tried = {image.url for image in images}
    guesses = tuple(guess for guess in find_guesses(reply, sent) if guess.url not in tried)
    return ExtractionResult(images, tuple(dict.fromkeys(extractor.rejected)), guesses)


def _search(reply: ChatReply, extractor: "_Extractor") -> Iterable[FoundImage]:
    """Return each image of the reply once, in order of appearance.

    What stands beside the messages is searched if they hold no image in structured form. It replaces their images if
    they hold none at all, or if it holds one in structured form.
    """
    around = Surroundings(reply.upstream_origin, extractor.candidate_filter.client)
    messages = [extractor.extract(content) for content in _contents_of(reply, around)]
    found = [image for images in messages for image in images]
    if reply.bodies and not any(image.form in _STRUCTURED for image in found):
        beside = extractor.extract(_content_beside(reply, around))
        if not found or any(image.form in _STRUCTURED and not image.standing for image in beside):
            found = beside
    if found and all(image.standing >= Standing.INPUT for image in found) and declines(reply, around.client):
        extractor.reject(found, _DECLINED)
        found = []
    unique = {image.url: image for image in reversed(found)}
    return reversed(unique.values())


def _contents_of(reply: ChatReply, around: Surroundings) -> list[MessageContent]:
    return [_content_of(message, around, reply.end_of(index)) for index, message in enumerate(reply.messages)]


def _content_of(message: Mapping[str, Any], around: Surroundings, end: TextEnd) -> MessageContent:
    others = {key: value for key, value in message.items() if key not in {"content", "parts"}}
    if "tool_calls" in others:
        others["tool_calls"] = join_calls(others["tool_calls"])
    return MessageContent(walk_json(message["parts"]), walk_json(others), message["content"], around, end)


def _content_beside(reply: ChatReply, around: Surroundings) -> MessageContent:
    return MessageContent(NO_JSON, walk_json(list(reply.bodies)), "", around, reply.end_of_bodies)


@dataclass(slots=True)
class _Extractor:
    candidate_filter: CandidateFilter
    takes_open: Callable[[str], bool] = lambda _: True
    rejected: list[RejectedCandidate] = field(default_factory=list)

    def extract(self, content: MessageContent) -> list[FoundImage]:
        """Return the results of the first rank that has any, else the images with the best standing."""
        others: list[FoundImage] = []
        if content.is_empty:
            return others
        for forms in RANKS:
            accepted = self._accepted(forms, content)
            if not accepted:
                continue
            found = self._without_copies(accepted)
            if results := _without_download_links([image for image in found if not image.standing]):
                self.reject([image for image in found if image.standing], _LESSER)
                results = self._larger_copy(content, results) or results
                # The last images are returned where there are more than were asked for.
                return sorted(results, key=_is_named_result) if any(map(_is_named_otherwise, results)) else results
            if not others or _best_standing(found) < _best_standing(others) or _are_larger_copies(found, others):
                others = found
        best = _best_standing(others)
        self.reject([image for image in others if image.standing > best], _LESSER)
        return [image for image in others if image.standing is best]

    def _larger_copy(self, content: MessageContent, images: Sequence[FoundImage]) -> list[FoundImage]:
        """Return the largest copy of the only image, if a link beside it leads to one, as its label or name says.

        It stands for the image: where it cannot be had, the reply is searched again without it.
        """
        if len(images) != 1 or images[0].shown_as is None or images[0].form not in _MARKUP_FORMS:
            return []
        shown, largest = images[0], max(map(edge_of_label, images[0].shown_as))
        larger: list[FoundImage] = []
        for candidate in _in_link_labels(content):
            words = candidate.shown_as or ()
            edge = max([*map(edge_of_label, words), _LARGE * is_larger_copy(str(candidate.value), shown.url)])
            url, _ = self.candidate_filter.check(candidate.value)
            if url and edge >= _LARGE and edge > largest:
                larger, largest = [FoundImage(url, "link", shown_as=candidate.shown_as)], edge
        if larger:
            self.reject(images, _SMALLER)
        return larger

    def reject(self, images: Iterable[FoundImage], reason: str) -> None:
        self.rejected += [RejectedCandidate(_shorten(image.url), image.form, reason) for image in images]

    def guess(self, content: MessageContent) -> Iterator[tuple[int, FoundImage]]:
        """Yield each guess with its unlikeliness."""
        for form in FORMS:
            for candidate in form.find(content) if form.rank == _GUESSES else ():
                url, _ = self.candidate_filter.check(candidate.value)
                if url:
                    yield candidate.unlikeliness, FoundImage(url, form.name, is_guess=True)

    def _accepted(self, forms: Iterable[ReplyForm], content: MessageContent) -> list[FoundImage]:
        found = []
        for form in forms:
            for candidate in form.find(content):
                url, reason = "", candidate.rejection
                if not reason:
                    url, reason = self.candidate_filter.check(candidate.value)
                if url and candidate.is_open and not self.takes_open(url):
                    url, reason = "", "it is cut off"
                if url:
                    is_open, shown_as = candidate.is_open, candidate.shown_as
                    found.append(FoundImage(url, form.name, candidate.standing, is_open=is_open, shown_as=shown_as))
                else:
                    self.rejected.append(RejectedCandidate(_shorten(candidate.value), form.name, reason))
        return found

    def _without_copies(self, found: list[FoundImage]) -> list[FoundImage]:
        """Reject the smaller copies of images that are there in several sizes."""
        if len(found) < 2:
            return found
        # Bytes have no size in their spelling: each inline image is one of its own.
        shown = [read_copy(image.url, *image.shown_as) if image.shown_as else Copy(image.url, 0) for image in found]
        smaller = smaller_copies(shown)
        self.reject([found[position] for position in sorted(smaller)], _SMALLER)
        return [image for position, image in enumerate(found) if position not in smaller]


def _best_standing(images: Iterable[FoundImage]) -> Standing:
    return min((image.standing for image in images), default=Standing.RESULT)


def _are_larger_copies(images: Sequence[FoundImage], others: Sequence[FoundImage]) -> bool:
    """Check for the larger copy of an image, each shown in another form."""
    is_few = len(images) * len(others) <= _MAX_COMPARED
    return is_few and any(is_larger_copy(one.url, other.url) for one in images for other in others)


def _is_named_result(image: FoundImage) -> bool:
    return image.shown_as is not None and any(map(names_result, image.shown_as))


def _is_named_otherwise(image: FoundImage) -> bool:
    """Check for an image with a name that is not one for the result: "Depth map:"."""
    return image.shown_as is not None and is_name(image.shown_as[0]) and not _is_named_result(image)


def _without_download_links(images: list[FoundImage]) -> list[FoundImage]:
    """Remove links for saving an image: they lead to the same file again."""
    if len(images) < 2:
        return images
    names = {file_name(image.url) for image in images if "download" not in image.url}
    return [image for image in images if "download" not in image.url or file_name(image.url) not in names]


def _shorten(value: str | Base64Run) -> str:
    text = value.prefix + value.payload[:80] if isinstance(value, Base64Run) else value
    return truncate(text, MAX_CANDIDATE)
