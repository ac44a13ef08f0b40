"""Plan the questions that find the dialect of an unknown upstream, and decide from the pixels that come back.

One image asks for a different size at each place where some family reads one: the shape of the image tells which
place was read. What is refused costs nothing and is asked again without what the refusal names. Sizes in the text are
another question, since a model may take any words for a wish.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.protocol.dialects import BUCKETS, COMMON_RATIOS, DIALECTS, PREFIX, SENTENCES, WORDS, Dialect
from app.protocol.sizes import Size

#: Square by itself, and quick to paint.
PROMPT = "A plain red circle in the middle of a white square"

#: Two shapes are the same if the logarithms of their ratios differ by less. Models round to multiples of up to 64.
_TOLERANCE = 0.09

#: No model paints a shape that is twice as long as wide unless it is asked to.
_STRIKING = math.log(2)

#: From here on an image is wide, or tall.
_CLEARLY = math.log(1.2)

#: The sizes of gpt-4o-image at most resellers.
FEW_SIZES = ("1024x1024", "1024x1792", "1792x1024")

_MODALITY = re.compile(r"modalit", re.IGNORECASE)
_STREAM = re.compile(r"\bstream(?:ing)?\b", re.IGNORECASE)
_QUALITY = re.compile(r"\bquality\b", re.IGNORECASE)
#: The words of dall-e-3 for qualities, in the list of those that are taken.
_OLD_QUALITIES = re.compile(r"\bstandard\b.*\bhd\b|\bhd\b.*\bstandard\b", re.IGNORECASE | re.DOTALL)
OLD_QUALITIES = {"low": "standard", "medium": "standard", "high": "hd"}
#: What says that a field is not known, instead of its value.
_UNKNOWN = re.compile(r"(?i)unknown|unsupported param|unrecogni[sz]ed|unexpected|not permitted|cannot find|extra[ _]")


@dataclass(frozen=True, slots=True)
class Place:
    """A field in which some family reads a size.

    Attributes:
        values: Values that are asked for, the next one where one is refused. The first ones of all places have
            different shapes; the last one has another shape than the others, to confirm that the place is read.
        name: How a refusal names the field.
        preset: The dialect that writes the size there; empty if none does.
    """

    path: str
    values: tuple[str, ...]
    name: re.Pattern[str]
    preset: str = ""


METADATA, SIZE = "metadata.size", "size"
GOOGLE, OPENROUTER, RATIO = "extra_body.google.image_config.aspect_ratio", "image_config.aspect_ratio", "aspect_ratio"

#: The second value of `size` is of the list of gpt-image-2-vip, the third one of that of gpt-4o-image.
PLACES = (
    Place(METADATA, ("1456x832", "1536x1024"), re.compile(r"\bmetadata\b"), "metadata"),
    Place(
        SIZE,
        ("832x1456", "768x1344", "1024x1792", "1456x832"),
        re.compile(r"(?<!\.)\bsize\b(?! of)", re.IGNORECASE),
        "top-level",
    ),
    Place(GOOGLE, ("4:5", "2:3"), re.compile(r"\bextra_body\b|\bgoogle\.image_config\b"), "google"),
    Place(OPENROUTER, ("21:9", "3:2"), re.compile(r"(?<!google\.)\bimage_config\b"), "openrouter"),
    Place(RATIO, ("4:3", "2:3"), re.compile(r"(?<!\.)\baspect_ratio\b")),
)
_PLACES = {place.path: place for place in PLACES}

#: Values in the text, tall in front of the prompt and wide behind it.
_TALL, _WIDE = "832x1456", "16:9"


@dataclass(frozen=True, slots=True)
class Question:
    """One image to ask for. `sizes` has a value for each place that is asked."""

    sizes: Mapping[str, str]
    modalities: tuple[str, ...] = ()
    stream: bool = True
    with_quality: bool = True

    @property
    def prompt(self) -> str:
        """The prompt with the sizes that are written into it."""
        sentence = f"\n\n{SENTENCES['ratio'].format(self.sizes[WORDS])}" if WORDS in self.sizes else ""
        text = PROMPT + sentence
        return f"{self.sizes[PREFIX]} '{text}'" if PREFIX in self.sizes else text

    @property
    def table(self) -> dict[str, Any]:
        """The dialect that writes the other sizes, as a table. A low quality makes the image cheaper."""
        body: dict[str, Any] = {}
        for path, value in self.sizes.items():
            if path in _PLACES:
                _put(body, path.split("."), value)
        if self.with_quality:
            for path, quality in ((METADATA, "metadata.quality"), (SIZE, "quality")):
                if path in self.sizes:
                    _put(body, quality.split("."), "low")
        return {"extra_body": body, "modalities": self.modalities, "send": ("stream",) if self.stream else ()}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a question: an image of a size, or the upstream's words instead.

    `is_reply`: the words are a reply without an image, not an error.
    """

    question: Question
    size: Size | None = None
    form: str = ""
    words: str = ""
    is_reply: bool = False
    may_have_cost: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """The dialect: a table for `[upstreams.dialect]`, and where the size was read; None if nowhere."""

    place: str | None
    table: Mapping[str, Any]

    @property
    def preset(self) -> str | None:
        """The preset that the table begins with."""
        preset: str | None = self.table.get("preset")
        return preset


@dataclass(slots=True)
class DialectProbe:
    """Choose the next question by all answers so far. `next_question` and `note` are called in turn."""

    answers: list[Answer] = field(default_factory=list)
    place: str | None = None
    _step: str = "fields"
    _places: list[str] = field(default_factory=lambda: [*_PLACES])
    _modalities: list[tuple[str, ...]] = field(default_factory=lambda: [("image", "text"), ("image",), ()])
    _values: dict[str, list[str]] = field(default_factory=lambda: {place.path: [*place.values] for place in PLACES})
    _refused: set[str] = field(default_factory=set)
    _stream: bool = True
    _quality: bool = True
    _is_split: bool = False
    _needs_modalities: bool = False

    def next_question(self) -> Question | None:
        """Return what to ask next, None at the end."""
        if self._step == "fields" and not self._places:
            self._step = "text"
        sizes = dict(self._sizes())
        if not sizes:
            return None
        return Question(sizes, self._wanted_modalities(), self._stream, self._quality)

    def _sizes(self) -> Iterator[tuple[str, str]]:
        match self._step:
            case "fields":
                for path in self._places[:1] if self._is_split else self._places:
                    yield path, self._values[path][0]
            case "prefix":
                yield METADATA, _PLACES[METADATA].values[-1]
                yield PREFIX, _TALL
            case "confirm":
                yield str(self.place), _PLACES[str(self.place)].values[-1]
            case "text":
                yield PREFIX, _TALL
                yield WORDS, _WIDE
            case "words":
                yield WORDS, _WIDE

    def _wanted_modalities(self) -> tuple[str, ...]:
        """Return all that may be needed at first; afterwards only what the candidate's dialect sends."""
        is_candidate = self._step in {"prefix", "confirm"} and self.place != OPENROUTER
        return () if is_candidate and not self._needs_modalities else self._modalities[0]

    def note(self, answer: Answer) -> None:
        """Draw the conclusion from an answer to the last question."""
        self.answers.append(answer)
        if answer.size is not None:
            self._note_image(answer, answer.size)
        elif answer.is_reply or not self._leave_out(answer):
            self._note_silence(answer)

    def _note_image(self, answer: Answer, size: Size) -> None:
        read = _place_of(answer.question.sizes, size)
        match self._step:
            case "fields" if read is not None:
                self.place = read
                value = answer.question.sizes[read]
                is_certain = (
                    _is_exact(value, size) or abs(_shape(size)) >= _STRIKING or value != _PLACES[read].values[0]
                )
                self._step = "prefix" if read == METADATA else "done" if is_certain else "confirm"
            case "fields" if self._is_split:
                del self._places[0]
            case "fields":
                self._step = "text"
            case "prefix" if read is not None:
                self.place, self._step = read, "done"
            case "confirm" if read is not None:
                self._step = "done"
            case "prefix" | "confirm":
                # The shape was the model's own choice.
                self.place, self._step = None, "text"
            case _:
                self._note_text(answer.question.sizes, size)

    def _note_text(self, sizes: Mapping[str, str], size: Size) -> None:
        earlier = (
            self.answers[:-1] if PREFIX in sizes else [each for each in self.answers if WORDS in each.question.sizes]
        )
        if any(each.size == size and each.question.sizes != sizes for each in earlier):
            # The model's own choice, whatever is asked for.
            self.place, self._step = None, "done"
        elif PREFIX in sizes and _is_exact(sizes[PREFIX], size):
            self.place, self._step = PREFIX, "done"
        elif _shape(size) > _CLEARLY:
            self.place, self._step = WORDS, "done"
        elif PREFIX in sizes and _shape(size) < -_CLEARLY:
            # The model may have read the prefix as words.
            self.place, self._step = PREFIX, "words"
        else:
            self._step = "done"

    def _leave_out(self, answer: Answer) -> bool:
        """Leave out what a refusal names, and return whether it names anything that was sent."""
        question, words = answer.question, answer.words
        is_named = False
        is_unknown = _UNKNOWN.search(words) is not None
        if question.modalities and names_modalities(words):
            del self._modalities[: -1 if is_unknown else 1]
            is_named = True
        if question.with_quality and _QUALITY.search(words) and {METADATA, SIZE} & question.sizes.keys():
            self._quality, is_named = False, True
        for path in _named(question.sizes, words):
            self._drop(path, is_value=not is_unknown)
            is_named = True
        if not is_named and question.stream and _STREAM.search(words):
            self._stream, is_named = False, True
        return is_named

    def _drop(self, path: str, *, is_value: bool) -> None:
        """Ask the place for its next value if its value was refused, and for none if the place itself was."""
        if self._step in {"prefix", "confirm"}:
            self._step = "done"
        elif is_value and len(self._values[path]) > 1:
            # Whoever complains of a value has read it.
            del self._values[path][0]
        else:
            self._places.remove(path)
            self._refused.add(path)

    def _note_silence(self, answer: Answer) -> None:
        """Go on after an answer without an image that names nothing."""
        question = answer.question
        match self._step:
            case "prefix" | "confirm" if not question.modalities and self._modalities[0]:
                self._needs_modalities = True
            case "prefix" | "confirm" | "words":
                self._needs_modalities, self._step = False, "done"
            case "fields" if answer.is_reply:
                self._step = "text"
            case "fields" if not self._is_split and len(question.sizes) > 1:
                self._is_split = True
            case "fields":
                self._refused.add(self._places.pop(0))
            case _ if question.modalities and not answer.is_reply:
                del self._modalities[0]
            case _ if question.stream and not answer.is_reply:
                self._stream = False
            case _:
                self._step = "done"

    def finding(self) -> Finding:
        """Return the dialect as far as the answers show it."""
        preset, table = self._preset(), dict[str, Any]()
        if self.place == RATIO:
            table |= {"size": {RATIO: "ratio"}, "ratios": list(COMMON_RATIOS), "send": ["user", "stream"]}
        else:
            table["preset"] = preset
        if self.place == SIZE and preset == "top-level" and self._made() <= set(FEW_SIZES):
            table["sizes"] = list(FEW_SIZES)
        return Finding(self.place, table | dict(self._limits(DIALECTS.get(preset))))

    def _preset(self) -> str:
        if self.place == SIZE:
            return "buckets" if self._made() <= set(BUCKETS) else "top-level"
        if self.place == PREFIX:
            return "gpt-image-2-chat"
        if self.place in _PLACES:
            return _PLACES[self.place].preset
        if len(self._refused) == len(_PLACES):
            return "poe"
        painted = [answer for answer in self.answers if answer.size is not None]
        return "vercel" if painted and painted[-1].form == "field" and painted[-1].question.modalities else "words"

    def _made(self) -> set[str]:
        """Return the sizes of the images whose size was asked for where it was read."""
        return {str(answer.size) for answer in self.answers if answer.size and self.place in answer.question.sizes}

    def _limits(self, preset: Dialect | None) -> Iterator[tuple[str, Any]]:
        """Yield what the upstream has refused or needed otherwise than the preset has it."""
        if preset is None:
            return
        works = list(self._modalities[0])
        if (preset.modalities and set(works) != set(preset.modalities)) or self._needs_modalities:
            yield "modalities", works
        unsent = {"metadata": METADATA in self._refused, "stream": not self._stream}
        if any(unsent.get(name) for name in preset.send):
            yield "send", [name for name in preset.send if not unsent.get(name)]
        if preset.quality and not self._quality:
            refusals = " ".join(answer.words for answer in self.answers if _QUALITY.search(answer.words))
            yield ("qualities", OLD_QUALITIES) if _OLD_QUALITIES.search(refusals) else ("quality", [])


def _named(sizes: Mapping[str, str], words: str) -> list[str]:
    """Return the places that a refusal is about: those whose values it quotes, or else those that it names."""
    fields = {path: value for path, value in sizes.items() if path in _PLACES}
    quoted = [path for path, value in fields.items() if re.search(rf"['\"`]{re.escape(value)}['\"`]", words)]
    return quoted or [path for path in fields if _PLACES[path].name.search(words)]


def names_modalities(words: str) -> bool:
    """Return whether a refusal is about the modalities."""
    return _MODALITY.search(words) is not None


def _put(body: dict[str, Any], path: Sequence[str], value: str) -> None:
    for key in path[:-1]:
        body = body.setdefault(key, {})
    body[path[-1]] = value


def _place_of(sizes: Mapping[str, str], size: Size) -> str | None:
    """Return the place whose value has the shape of an image."""
    distances = {
        path: -1.0 if _is_exact(value, size) else abs(_shape_of(value) - _shape(size)) for path, value in sizes.items()
    }
    nearest = min(distances, key=lambda path: distances[path])
    return nearest if distances[nearest] < _TOLERANCE else None


def _is_exact(value: str, size: Size) -> bool:
    return value == str(size)


def _shape(size: Size) -> float:
    return math.log(size.width / size.height)


def _shape_of(value: str) -> float:
    width, height = map(int, re.split("[x:]", value))
    return math.log(width / height)
