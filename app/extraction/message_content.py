"""Read what one message of a reply contains: its JSON, its texts, their URLs, and what these say of each other."""

from dataclasses import dataclass, replace
from functools import cached_property

from app.extraction.copies import is_larger_copy
from app.extraction.groups import with_shared_words
from app.extraction.mentions import IMAGE_MARKUP, UrlMention
from app.extraction.own_links import ClientTexts
from app.extraction.standing import (
    MAX_LABEL,
    is_unrelated,
    last_clause,
    names_step,
    says_result,
    shows_example,
    standing_of,
)
from app.extraction.structured import JsonWalker
from app.extraction.text import ReplyText
from app.extraction.urls import has_image_ending, is_same_site
from app.extraction.words import ASSISTANT_TURN, DECORATION_WORDS, RESULT_WORDS, UNCHANGED_WORDS, USER_TURN
from app.protocol.text_end import TextEnd

#: URLs looked at in one reply. More are not the answer to one request.
_MAX_URLS = 500
#: Texts looked at in one message, those inside JSON included.
_MAX_TEXTS = 500


@dataclass(slots=True)
class Surroundings:
    """What is known beside a message.

    Attributes:
        origin: Where paths without a host are read.
        client: What the client has sent.
        url_budget: How many more URLs are looked at. All messages of a reply share it.
    """

    origin: str
    client: ClientTexts
    url_budget: int = _MAX_URLS


class MessageContent:
    """What one message contains, or what a reply contains beside its messages. Read on first use and kept."""

    def __init__(
        self,
        parts: JsonWalker,
        fields: JsonWalker,
        text: str,
        around: Surroundings,
        end: TextEnd = TextEnd.WHOLE,
    ) -> None:
        """`parts`: the content parts; `fields`: its other fields; `text`: its plain text; `end`: how texts end."""
        self.origin = around.origin
        self.part_walker = parts
        self.field_walker = fields
        self._around = around
        self._raw_texts, self._end = (text, *parts.texts, *fields.texts), end

    @property
    def is_empty(self) -> bool:
        parts, fields = self.part_walker, self.field_walker
        return not (parts.fields or parts.calls or fields.fields or fields.calls or any(self._raw_texts))

    @cached_property
    def texts(self) -> list[ReplyText]:
        """The texts of the message, followed by the texts inside those that are JSON or contain JSON."""
        texts = [ReplyText(raw, end=self._end) for raw in self._raw_texts[:_MAX_TEXTS] if raw]
        for text in texts:
            if len(texts) < _MAX_TEXTS:
                texts += text.nested_texts(text.whole_json)
                texts += text.nested_texts(text.embedded_json)
        return texts

    @cached_property
    def walkers(self) -> list[JsonWalker]:
        """All JSON of the message: its parts, its fields, and what its texts contain."""
        inside = [walker for text in self.texts for walker in (text.whole_json, text.embedded_json)]
        return [self.part_walker, self.field_walker, *inside]

    @cached_property
    def mentions(self) -> list[tuple[ReplyText, UrlMention]]:
        """The URLs of all texts, each with its text, as far as the budget allows."""
        found: list[tuple[ReplyText, UrlMention]] = []
        for text in self.texts:
            if self._around.url_budget > 0:
                mentions = [self._without_prompt(mention) for mention in text.mentions]
                found += [(text, mention) for mention in with_shared_words(text.visible, mentions)]
                self._around.url_budget -= len(text.mentions)
        return found

    def _without_prompt(self, mention: UrlMention) -> UrlMention:
        """Return the mention without words of the prompt, which many upstreams repeat as its label or above it."""
        has_words = self._around.client.has_words
        is_label = bool(mention.label) and has_words(mention.label)
        is_before = bool(mention.before) and has_words(mention.before)
        if not (is_label or is_before):
            return mention
        return replace(mention, label="" if is_label else mention.label, before="" if is_before else mention.before)

    @cached_property
    def shows_change(self) -> bool:
        """Whether something is called a result, or the image after a change, so that another is the one before it."""
        return any(says_result(text) for _, mention in self.mentions for text in _words_of(mention))

    @cached_property
    def _shows_turns(self) -> bool:
        return any(ASSISTANT_TURN.search(text) for _, mention in self.mentions for text in _words_of(mention))

    def is_unchanged(self, mention: UrlMention) -> bool:
        """Check for what stands before a result that the message shows: the input, a step, the user's turn."""
        if len(self.mentions) < 2:
            return False
        words = [text for text in _words_of(mention) if not says_result(text)]
        if self._shows_turns and any(map(USER_TURN.search, words)):
            return True
        if not self.shows_change:
            return False
        is_named = any(map(UNCHANGED_WORDS.search, words))
        is_original = is_named and not any(is_larger_copy(mention.url, other.url) for _, other in self.mentions)
        return is_original or any(map(names_step, words))

    def is_asked_for(self, mention: UrlMention) -> bool:
        """Check for words of a decoration that the client's texts have too: "logo" of an image, and of the prompt."""
        texts = (*_words_of(mention), mention.url[-MAX_LABEL:].replace("_", " "))
        return any(self._around.client.shares_words(text, DECORATION_WORDS) for text in texts)

    def is_button(self, mention: UrlMention) -> bool:
        """Check for an image that leads elsewhere, beside one that does not: "Buy me a coffee"."""
        link = mention.enclosing_link
        if link is None or link.url == mention.url or any(RESULT_WORDS.search(text) for text in _words_of(mention)):
            return False
        if self._shows_image_without_link:
            return True
        is_elsewhere = not is_same_site(link.url, mention.url) or not has_image_ending(mention.url)
        return is_elsewhere and self._has_link_to_image

    @cached_property
    def _shows_image_without_link(self) -> bool:
        return any(
            mention.enclosing_link is None
            and mention.kind in IMAGE_MARKUP
            and not mention.is_icon
            and not standing_of(mention.before, mention.label, mention.url)
            for _, mention in self.mentions
        )

    @cached_property
    def _has_link_to_image(self) -> bool:
        """Whether the address of an image stands in the text that may be the result, and around no other image."""
        around = {mention.enclosing_link.url for _, mention in self.mentions if mention.enclosing_link is not None}
        return any(
            mention.kind not in IMAGE_MARKUP
            and mention.url not in around
            and has_image_ending(mention.url)
            and not standing_of(mention.before, mention.label, mention.url)
            and not is_unrelated(mention.before, mention.label)
            and not shows_example(mention.before, mention.label)
            and not self._around.client.has_link(mention.url)
            for _, mention in self.mentions
        )


def _words_of(mention: UrlMention) -> tuple[str, str]:
    """Return the clause in front of an image, and its label as far as that is read."""
    return last_clause(mention.before), mention.label[:MAX_LABEL]
