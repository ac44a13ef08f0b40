"""Decide whether a candidate is an image that can be delivered: its normalized URL, or the reason against it.

What the words around a candidate say of it is in `standing.py`.
"""

from collections.abc import Collection

from app.extraction.base64_runs import Base64Run
from app.extraction.copies import is_larger_copy, is_small_copy
from app.extraction.own_links import ClientTexts
from app.extraction.urls import (
    UrlKind,
    classify_url,
    file_name,
    is_of_others,
    is_placeholder,
    may_be_image,
    normalize_url,
)
from app.protocol.data_url import image_data_url
from app.protocol.image_format import ImageInfo, bytes_reader, is_complete, sniff

#: Edge of the largest image that counts as a tracking pixel.
_MAX_TRACKING_EDGE = 3

_NOT_IMAGES = (UrlKind.VIDEO, UrlKind.OTHER_FILE)


class CandidateFilter:
    """Accept candidates that are images and that the client did not send.

    The reasons of rejections are shown by `limner explain` and are translated on the page (`app/web/explainer.js`).
    """

    def __init__(self, sent: Collection[str]) -> None:
        """`sent`: what the client itself has sent: URLs and data URLs of its images, and texts that may have more."""
        self.client = ClientTexts(sent)

    def check(self, value: str | Base64Run) -> tuple[str, str]:
        """Return the normalized URL and an empty reason, or an empty URL and the reason in plain words."""
        return self._check_run(value) if isinstance(value, Base64Run) else self._check_url(value)

    def _check_url(self, value: str) -> tuple[str, str]:
        url = normalize_url(value)
        if url is None:
            return "", "it is no http or https address"
        if is_placeholder(url):
            return "", "it stands where a picture belongs, but is none"
        if is_of_others(url):
            return "", "its host has photos and icons of others"
        if (kind := classify_url(url)) in _NOT_IMAGES:
            return "", f"it leads to {kind.value}"
        if self.client.has_link(url):
            return "", "the client itself had sent it"
        return url, ""

    def _check_run(self, run: Base64Run) -> tuple[str, str]:
        try:
            data = run.decode()
        except ValueError:
            return "", "it is not base64"
        info = sniff(data)
        if info is None:
            return "", "its bytes are no image"
        if not is_complete(bytes_reader(data), len(data)):
            return "", "its bytes are cut off"
        if is_tracking_pixel(info):
            return "", "it is a single pixel, which stands where a picture belongs"
        return ("", "the client itself had sent it") if self.client.has_image(data) else (image_data_url(data), "")


def is_tracking_pixel(info: ImageInfo) -> bool:
    """Check for an image that nobody sees: a few pixels that count readers or keep a place."""
    return (
        info.width is not None
        and info.height is not None
        and (min(info.width, info.height) == 1 or max(info.width, info.height) <= _MAX_TRACKING_EDGE)
    )


def leads_to_larger_image(link: str, image: str) -> bool:
    """Check whether the link around an image leads to the whole image, unless one of the names says otherwise.

    A link that says nothing of what it leads to counts only if it is the same address but for a larger size: it may be
    a page, or a button that costs money.
    """
    if classify_url(link) is UrlKind.IMAGE:
        # A link for saving the same file leads to no larger one.
        is_same = "download" in link and file_name(link) == file_name(image)
        return not is_same and not (is_small_copy(link) and is_larger_copy(image, link))
    return may_be_image(link) and is_larger_copy(link, image)
