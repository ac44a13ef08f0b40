"""Judge whether an upstream surely did no work before it failed: by evidence, since statuses alone prove nothing."""

import re

import orjson

from app.protocol.reply_errors import find_error
from app.protocol.sse import Decoder
from app.upstream.error_body import UpstreamErrorBody

#: Seconds. An overload that is reported later may be a middle box's word for a server that worked for too long.
_PROMPT = 2.0

#: Words of what stands in front of an API (Envoy, Fastly, Varnish, Heroku, Azure Front Door, nginx, CloudFront, Akamai,
#: HTTP clients of relays) when the API has taken too long or broken off, and of an API that failed after its work.
_AFTER_SENDING = re.compile(
    r"""
      upstream[ ](?:connect|request|response) | disconnect | \breset\b | before[ ]headers | (?:first|between)[ ]bytes?
    | backend | fetch[ ]failed | guru[ ]meditation | varnish | \borigin(?!al) | \bH[12][0-9]\b | application[ ]error
    | gateway | proxy | time[sd]?[ -]?out | deadline | too[ ]long | broken[ ]pipe | \beof\b | hang[ ]?up
    | connection[ ](?:refused|closed|terminat|abort|lost|error|fail)
    | context[ ]cancel | econn | incomplete | server[ ]closed
    | \bgoaway | stream[ ]error | internal_error; | \b(?:50[24]|52[0-7])\b
    | (?:bad|invalid|empty|no|unexpected|malformed|without[ ]an?)[ ](?:\w+[ ]){0,2}(?:response|reply|answer|end[ ]of)
    | (?:pars|decod|read|unmarshal)(?:e|ing)?[ ](?:the[ ])?(?:\w+[ ]){0,2}(?:response|reply|answer|body|json|stream)
    | \b(?:died|crashed|killed|exited|interrupted|aborted|cancell?ed|lost)\b
    | remote[ ]end | cloudfront | akamai | load[ ]?balancer | no[ ]healthy[ ]upstream
    | \b(?:was|were|been|already)[ ](?:\w+[ ]){0,2}(?:generated|created|rendered|painted|charged|billed|completed)
    | (?:could[ ]not|couldn't|cannot|can't|failed[ ]to|unable[ ]to)[ ](?:be[ ])?
      (?:stor|sav|upload|deliver|return|persist)
    | (?:fetch|get|download|retrieve|obtain)(?:ing)?[ ](?:the[ ])?(?:result|output|image|picture)
    | zeitüberschreitung | tiempo[ ]de[ ]espera | délai | тайм-?аут | 시간[ ]?초과 | 생성[ ]?완료
    | 保存に失敗 | 生成(?:は|が)完了 | 超时 | 超時
    | 已生成 | 生成成功 | 已完成 | 已扣费 | (?:上传|上傳|保存|存储|下载)失[败敗] | タイムアウト
    """,
    re.VERBOSE | re.IGNORECASE,
)


def was_refused_at_once(body: UpstreamErrorBody) -> bool:
    """Return whether an error of the 5xx kind surely came before any work.

    It came fast, an API said it (an error object, or `retry-after` without a page for people), and it has no words of a
    middle box, as far as it was searched: to the end.
    """
    is_from_api = body.is_api_error or (body.wait.has_retry_after and not body.is_page)
    is_searched = body.is_all_searched and not _AFTER_SENDING.search(body.everything)
    return came_at_once(body) and is_from_api and is_searched


def came_at_once(body: UpstreamErrorBody) -> bool:
    """Return whether an answer came before an image can have been made."""
    return body.facts.elapsed < _PROMPT


def error_came_first(raw: str) -> bool:
    """Return whether nothing at all came before the error of a reply, no keep-alive either: no work was begun then.

    `raw` is the beginning of the reply as it came.
    """
    if raw.startswith(("{", "[")):
        return _is_error(raw) or _is_error(raw.partition("\n")[0])
    if not raw.startswith(("data:", "event:", "id:")):
        return False
    decoder = Decoder()
    events = decoder.feed(raw.encode()) + decoder.end()
    return bool(events) and (events[0].name == "error" or _is_error(events[0].data))


def _is_error(text: str) -> bool:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    first = document[0] if isinstance(document, list) and document else document
    return isinstance(first, dict) and find_error(first) is not None
