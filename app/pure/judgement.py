"""Whether a candidate is an image that can be handed on: its one spelling, or why not."""

from collections.abc import Collection

from app.protocol.data_url import decode_base64, decode_data_url, image_data_url
from app.protocol.image_format import is_whole, sniff
from app.pure.base64_text import Piece
from app.pure.links import Look, fingerprint, is_stand_in, look_of, normalise

_NO_IMAGE = {Look.VIDEO, Look.OTHER}


class Judge:
    """`sent`: addresses and data URLs that the client itself had sent."""

    def __init__(self, sent: Collection[str]) -> None:
        self._sent_links = {fingerprint(normalise(url) or url) for url in sent if url[:5].lower() != "data:"}
        self._sent_pictures = [url for url in sent if url[:5].lower() == "data:"]

    def judge(self, value: str | Piece) -> tuple[str, str]:
        """The URL, or an empty one and the reason in plain words."""
        return self._judge_piece(value) if isinstance(value, Piece) else self._judge_link(value)

    def _judge_link(self, value: str) -> tuple[str, str]:
        url = normalise(value)
        if url is None:
            return "", "it is no http or https address"
        if is_stand_in(url):
            return "", "it stands where a picture belongs, but is none"
        if (look := look_of(url)) in _NO_IMAGE:
            return "", f"it leads to {look.value}"
        if self._sent_links and fingerprint(url) in self._sent_links:
            return "", "the client itself had sent it"
        return url, ""

    def _judge_piece(self, piece: Piece) -> tuple[str, str]:
        try:
            data = _decode(piece)
        except ValueError:
            return "", "it is not base64"
        info = sniff(data)
        if info is None:
            return "", "its bytes are no image"
        if not is_whole(data):
            return "", "its bytes are cut off"
        if info.width == info.height == 1:
            return "", "it is a single pixel, which stands where a picture belongs"
        url = image_data_url(data)
        return ("", "the client itself had sent it") if self._was_sent(url, data) else (url, "")

    def _was_sent(self, url: str, data: bytes) -> bool:
        return any(url == sent or _equals(sent, data) for sent in self._sent_pictures)


def _equals(sent: str, data: bytes) -> bool:
    """Lengths are compared first: decoding is for pictures that may be the same."""
    if not 0.9 < len(sent) / (len(data) * 4 / 3 + 32) < 1.5:
        return False
    try:
        return decode_data_url(sent) == data
    except ValueError:
        return False


def _decode(piece: Piece) -> bytes:
    text = piece.text.replace("\\r", "").replace("\\n", "") if "\\" in piece.text else piece.text
    if not piece.head or piece.head.rstrip().lower().endswith("base64,"):
        return decode_base64(text)
    raise ValueError("a data URL in another encoding")
