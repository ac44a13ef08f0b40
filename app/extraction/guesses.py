"""Order the URLs of a reply that may lead to anything: which of them most likely leads to the image.

Only the bytes behind such a URL tell whether it is one. Words in a few languages, and the looks of the URL, only decide
which URL is downloaded first, so a language that is missing here costs a download more and never an image.
"""

import re

from app.extraction.copies import MIN_RESULT, edge_of_label
from app.extraction.standing import MAX_LABEL, Standing, is_unrelated, last_clause, shows_example, standing_of
from app.extraction.urls import UrlKind, classify_url
from app.extraction.words import ELSEWHERE_WORDS, RESULT_WORDS

#: Characters of a URL that are looked at.
_MAX_URL = 300

#: Parts of hosts and paths behind which files are kept.
_FILE_PATH = re.compile(
    r"(?:^|[/._-])(?:imgs?|images?|pics?|photos?|cdn|files?|media|out|outputs?|results?|renders?|gen(?:erated)?|storage|static"
    r"|assets?|blobs?|objects?|downloads?|uploads?|content|oss|cos|s3|r2|[rio])(?=[/._-]|$)",
    re.IGNORECASE,
)
#: The end of a path that no person has named: an id, a digest.
_ID = re.compile(r"/(?=[\w-]*[0-9])[\w-]{6,}(?:/(?:content|raw|download|sample))?/?(?:\?|$)")
#: Parts of paths of pages that are made for people, by their stems in several languages.
_PAGE_PATH = re.compile(
    r"/(?:rules?|regl|regel|règle|regra|regol|norma|polit|polic|legal|term|agb|condi|help|hilfe|aide|ayuda|ajuda|aiuto|pomoc"
    r"|recharge|top-?up|pay|buy|billing|checkout|order|credits?|plans?|pric|tarif|precio|upgrade|subscri|log-?in|sign|auth|account"
    r"|user|profile|contact|support|status|tasks?|queue|forum|guidelines?|safety|faq)[\w-]*(?:[/?.]|$)",
    re.IGNORECASE,
)


def unlikeliness(words: str, label: str, url: str) -> int:
    """Return a number that is the lower, the likelier the URL leads to the image.

    `words`: what stands in front of the URL; `label`: what a link shows in place of its URL.
    """
    text, address = f"{last_clause(words)} {label[:MAX_LABEL]}", url[:_MAX_URL]
    against = (
        ELSEWHERE_WORDS.search(text) is not None,
        is_unrelated(words, label) or shows_example(words, label),
        standing_of(words, label, url) > Standing.DOUBTFUL,
        any(0 < edge_of_label(each) <= MIN_RESULT for each in (last_clause(words), label)),
        classify_url(url) is UrlKind.PAGE,
        _PAGE_PATH.search(address) is not None,
    )
    in_favor = (
        RESULT_WORDS.search(text) is not None,
        _FILE_PATH.search(address.partition("?")[0]) is not None,
        _ID.search(address) is not None,
    )
    return sum(against) - sum(in_favor)
