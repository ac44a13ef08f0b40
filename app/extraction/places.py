"""Where to mend a reading that is wrong: the setting, or the table and its file, behind each decision about a reply.

The places are names that can be searched for, so that the page needs no translation of them.
"""

from collections.abc import Mapping

_URLS, _FILTERS, _WORDS = "app/extraction/urls.py", "app/extraction/filters.py", "app/extraction/words.py"
_FORMS, _STANDING = "app/extraction/forms.py", "app/extraction/standing.py"

#: By the reason why a candidate was not taken.
_OF_REASONS: Mapping[str, str] = {
    "it is no http or https address": f"normalize_url in {_URLS}",
    "it stands where a picture belongs, but is none": f"_PLACEHOLDER in {_URLS}",
    "its host has photos and icons of others": f"_OTHERS_HOSTS in {_URLS}",
    "it leads to a video": f"_VIDEO_SUFFIXES in {_URLS}",
    "it leads to a file that is not an image": f"_OTHER_SUFFIXES in {_URLS}",
    "the client itself had sent it": "ClientTexts in app/extraction/own_links.py",
    "it is not base64": "decode_base64 in app/protocol/data_url.py",
    "its bytes are no image": "FORMATS in app/protocol/image_format.py",
    "its bytes are cut off": "LIMNER_UPSTREAM_TIMEOUT, LIMNER_UPSTREAM_IDLE_TIMEOUT, or the limits of the upstream",
    "it is a single pixel, which stands where a picture belongs": f"is_tracking_pixel in {_FILTERS}",
    "it is a small copy that leads to a page": f"leads_to_larger_image in {_FILTERS}",
    "the words around it say that it is not the result": f"UNRELATED_WORDS in {_WORDS}",
    "it stands in a command": f"_SAMPLE_CODE in {_STANDING}",
    "it is the poster of a video": "is_poster in app/extraction/posters.py",
    "it is cut off": "LIMNER_UPSTREAM_TIMEOUT, LIMNER_UPSTREAM_IDLE_TIMEOUT, or the limits of the upstream",
    "the model declines, and the image is for another purpose": "_REFUSAL in app/extraction/refusal.py",
    "it is a smaller copy of the result": "smaller_copies in app/extraction/copies.py",
    "it is a preview, an advertisement or the like beside the result": (
        f"PREVIEW_WORDS, INPUT_WORDS and DECORATION_WORDS in {_WORDS}, _SECONDARY_PATH in {_STANDING}"
    ),
}
#: Of an address that may lead to anything: whether it is reached, and which one is tried first.
OF_A_GUESS = "LIMNER_FETCH_ALLOW if its host is in your network; RESULT_WORDS in app/extraction/words.py for the order"
#: Of a reply without any image: another model may paint, or the reply has a form that is not known.
OF_NOTHING = f"LIMNER_UPSTREAM_MODEL and LIMNER_UPSTREAM_DIALECT if the model did not paint; else FORMS in {_FORMS}"
#: Of a reply that is longer, without its images, than any may be.
OF_A_LONG_TEXT = "MAX_LEFT in app/protocol/reply_parser.py"


def place_of_reason(reason: str) -> str:
    """Return where it is decided that a candidate is not taken for this reason."""
    return _OF_REASONS[reason]


def place_of_form(form: str) -> str:
    """Return where it is decided that a reply form is an image."""
    return f"{form} of FORMS in {_FORMS}"
