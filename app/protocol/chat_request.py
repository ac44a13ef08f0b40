"""Build the body of a chat request for an image, in the dialect of its upstream."""

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from functools import lru_cache, reduce
from typing import Any, Literal, NamedTuple

from app.protocol.byte_sink import ByteSink
from app.protocol.dialects import PREFIX, SENTENCES, WORDS, Dialect, RequestedSize
from app.protocol.image_format import read_info
from app.protocol.image_request import ImagesRequest
from app.protocol.json_stream import Base64String, StreamingJson
from app.protocol.tiers import RESOLUTIONS
from app.protocol.values import value_class

#: Dialects of which is remembered what they carry: there is one for each upstream.
_REMEMBERED_DIALECTS = 256

#: When a stream is requested: `auto` if the client requested one.
StreamMode = Literal["auto", "always", "never"]

#: The sentence for the model about markup, which is the last image, like a mask.
MARKUP_INSTRUCTION = (
    "The last picture lies over the first one and is transparent but for its marks: drawings, arrows or notes. "
    "Do what they ask for, and leave the marks themselves out of the result."
)


@value_class
class ChatRequest:
    """What one reply is wanted for, before an upstream with its dialect and its model is chosen.

    `image_urls` are links or base64 that is encoded while it is sent, mask or markup last.
    """

    request: ImagesRequest
    image_urls: tuple[str | Base64String, ...] = ()
    stream: bool = False
    _bodies: dict[tuple[Dialect, str, bool, bool], StreamingJson] = field(
        default_factory=dict, compare=False, repr=False
    )

    def body(
        self, dialect: Dialect, model: str, *, other_modalities: bool = False, stream_mode: StreamMode | None = None
    ) -> StreamingJson:
        """Return the request body for an upstream of this dialect. Kept, since retries and `n` > 1 send it again."""
        streams = self.streams(stream_mode)
        key = dialect, model, other_modalities, streams
        if key not in self._bodies:
            traits = replace(dialect, modalities=dialect.other_modalities) if other_modalities else dialect
            chat = self if streams == self.stream else replace(self, stream=streams)
            self._bodies[key] = StreamingJson(chat_body(chat, traits, model))
        return self._bodies[key]

    def streams(self, mode: StreamMode | None) -> bool:
        """Return whether a stream is requested from an upstream of this mode; None leaves it at `stream`."""
        return self.stream if mode is None else wants_stream(mode, self.request)

    @property
    def images_bytes(self) -> int:
        """The bytes of all images that are sent, before they become base64. Links have none."""
        return sum(url.source.size for url in self.image_urls if isinstance(url, Base64String))


def wants_stream(mode: StreamMode, request: ImagesRequest) -> bool:
    """Return whether a stream is requested for a request."""
    return {"auto": request.stream, "always": True, "never": False}[mode]


def client_fields(request: ImagesRequest, dialect: Dialect) -> set[str]:
    """Return the paths in a body that hold the client's own words, not a word or a size of the dialect's."""
    own = {request.quality, request.style, request.background}
    if request.asked_size != "auto":
        own |= {request.upstream_size_text or "", request.aspect_ratio, request.resolution}
    wishes = _wishes(request, dialect, _requested_size(request))
    paths = {wish.place for wish in wishes if wish.value in own} - {PREFIX, WORDS}
    return paths | {name for name in ("metadata", "user") if getattr(request, name)}


@lru_cache(_REMEMBERED_DIALECTS)
def carried_parameters(dialect: Dialect) -> Mapping[str, bool]:
    """Return whether an upstream of a dialect is told each of the parameters for which that depends on the dialect."""
    size, user = bool(dialect.size or dialect.model_suffixes), "user" in dialect.send
    return {
        **dict.fromkeys(("size", *_SIZE_PARAMETERS), size),
        "quality": bool(dialect.quality),
        "style": bool(dialect.style),
        "background": bool(dialect.background),
        "metadata": "metadata" in dialect.send,
        "user": user,
        "safety_identifier": user,
    }


#: Other parameters that say something of the size.
_SIZE_PARAMETERS = ("image_size", "aspect_ratio", "resolution", "width", "height")


def ignored_at(request: ImagesRequest, dialect: Dialect) -> tuple[str, ...]:
    """Return the names of parameters that the client sent and that have no effect at an upstream of this dialect."""
    carried = carried_parameters(dialect)
    wishes = {
        "size": request.asked_size != "auto",
        "quality": request.quality is not None,
        "style": request.style is not None,
        "background": request.background is not None,
        "metadata": bool(request.metadata),
        "safety_identifier" if request.safety_identifier else "user": bool(request.user),
    }
    # The request itself names these as ignored, as they are almost everywhere.
    known = (name for name in request.ignored if name not in {"style", "background"})
    return tuple(dict.fromkeys((*(name for name, is_sent in wishes.items() if is_sent and not carried[name]), *known)))


class _Wish(NamedTuple):
    """A value that an upstream is asked for: where, and by which sentence of `SENTENCES` if it is said in words."""

    place: str
    value: str
    sentence: str


def chat_body(chat: ChatRequest, dialect: Dialect, model: str) -> dict[str, Any]:
    """Return the body as JSON values, with the bytes of images as `Base64String`."""
    request = chat.request
    images = [{"type": "image_url", "image_url": {"url": url}} for url in chat.image_urls]
    size = _requested_size(request)
    wishes = list(_wishes(request, dialect, size))
    body: dict[str, Any] = {
        "model": dialect.model(model, size),
        "messages": [{"role": "user", "content": [{"type": "text", "text": _text(request, dialect, wishes)}, *images]}],
    }
    if dialect.modalities:
        body["modalities"] = list(dialect.modalities)
    _merge(body, dialect.extra_body)
    optional = {"metadata": request.metadata, "user": request.user, "stream": chat.stream}
    _merge(body, {name: value for name, value in optional.items() if name in dialect.send and value not in (None, {})})
    for place, value, _ in wishes:
        if place not in {PREFIX, WORDS}:
            path = place.split(".")
            _merge(body, reduce(lambda inner, key: {key: inner}, reversed(path[:-1]), {path[-1]: value}))
    return body


def _wishes(request: ImagesRequest, dialect: Dialect, size: RequestedSize | None) -> Iterator[_Wish]:
    """Yield what is asked for and has a place in the dialect. `size`: that of the request."""
    for place, form in dialect.size.items():
        if value := dialect.size_at(place, size):
            yield _Wish(place, value, form)
    if request.quality is not None:
        quality = dialect.qualities.get(request.quality, request.quality)
        yield from (_Wish(place, quality, "quality") for place in dialect.quality)
    if request.style is not None:
        yield from (_Wish(place, request.style, "style") for place in dialect.style)
    if request.background is not None:
        yield from (_Wish(place, request.background, "background") for place in dialect.background)


def _text(request: ImagesRequest, dialect: Dialect, wishes: list[_Wish]) -> str:
    instructions = {dialect.mask: request.mask, MARKUP_INSTRUCTION: request.markup}
    explained = [text for text, image in instructions.items() if text and image is not None]
    sentences = " ".join([SENTENCES[each.sentence].format(each.value) for each in wishes if each.place == WORDS])
    prompt = "\n\n".join(filter(None, (request.prompt, *explained, sentences)))
    prefixes = [each.value for each in wishes if each.place == PREFIX]
    return f"{prefixes[0]} '{prompt}'" if prefixes else prompt


def _requested_size(request: ImagesRequest) -> RequestedSize | None:
    if request.size is None:
        return None
    tier = "" if request.resolution is None else RESOLUTIONS[request.resolution].name
    return RequestedSize(request.size.upstream_size, tier, not tier and request.asked_size == request.aspect_ratio)


def _merge(body: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add values to a body; objects in both are joined, and other values of `more` win. `more` is copied."""
    for key, value in more.items():
        if isinstance(value, Mapping):
            inner = body[key] if isinstance(body.get(key), dict) else {}
            _merge(inner, value)
            body[key] = inner
        else:
            body[key] = value


def to_image_url(image: ByteSink | str) -> Base64String | str:
    """Return a link unchanged, and bytes as a data URL with the media type that the bytes have.

    What clients say of the type is not used: they send `application/octet-stream`, and label a JPEG as PNG.
    """
    if isinstance(image, str):
        return image
    info = read_info(image.read_at)
    media_type = "application/octet-stream" if info is None else info.media_type
    return Base64String(image, f"data:{media_type};base64,")
