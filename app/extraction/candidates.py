"""What is found in a reply: candidates, the images that were taken of them, and why the others were not."""

from dataclasses import dataclass, field

from app.extraction.base64_runs import Base64Run
from app.extraction.standing import Standing
from app.protocol.values import value_class


@value_class
class ImageCandidate:
    """Something in a reply that looks like an image.

    Attributes:
        standing: How much it counts if nothing speaks against it.
        rejection: Why the candidate is not a result, empty if nothing speaks against it so far.
        unlikeliness: Of a guess: those with less of it are downloaded first.
        is_open: The reply may end in the middle of the URL.
    """

    value: str | Base64Run
    standing: Standing = Standing.RESULT
    rejection: str = ""
    unlikeliness: int = 0
    shown_as: tuple[str, str] | None = None
    is_open: bool = False


@value_class
class FoundImage:
    """One image of a reply.

    Attributes:
        url: An http(s) URL, or a data URL in normalized spelling.
        form: The name of the row of `FORMS` that found the image.
        standing: How much it counts. One that is no result was found because there is nothing better.
        is_guess: Nothing says that the URL leads to an image. Its bytes decide, so it is never handed out unseen.
        is_open: The reply may end in the middle of the URL. Its bytes decide, too.
        shown_as: Of a URL, the words in front of it and its label, which may say that it is a small copy.
    """

    url: str
    form: str
    standing: Standing = Standing.RESULT
    is_guess: bool = False
    is_open: bool = field(default=False, compare=False)
    shown_as: tuple[str, str] | None = field(default=None, compare=False, repr=False)

    @property
    def is_secondary(self) -> bool:
        """Whether it surely is no result: a preview, the input image, a decoration."""
        return self.standing > Standing.DOUBTFUL


@dataclass(frozen=True, slots=True)
class RejectedCandidate:
    """Something that looks like an image but is not a result, and why.

    Attributes:
        candidate: The URL or base64, truncated.
        form: The name of the row of `FORMS` that found the candidate.
        reason: In plain words.
    """

    candidate: str
    form: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExtractionResult:
    """What a reply contains.

    Attributes:
        images: What the reply shows as an image, in order of appearance.
        rejected: What looks like an image but is not a result.
        guesses: URLs that may lead to an image, the likeliest first, for a reply whose images are none.
    """

    images: tuple[FoundImage, ...]
    rejected: tuple[RejectedCandidate, ...]
    guesses: tuple[FoundImage, ...] = ()
