"""Read the address that a request names for its webhook, and refuse it before anything is spent."""

from dataclasses import replace

from starlette.datastructures import Headers

from app.access.auth import Caller
from app.errors import Forbidden, InvalidRequest, UserError
from app.images.guarded_http import FetchError
from app.images.ssrf import AddressBlocked
from app.jobs.webhooks import Webhooks
from app.protocol.image_request import ImagesRequest

#: The header in place of the parameter, for clients that cannot add one.
WEBHOOK_HEADER = "x-limner-webhook"

_PARAM = "webhook_url"
_NOT_ALLOWED = (
    "Webhooks are not allowed on this server, or not for this key. Leave out 'webhook_url' and poll the result."
)
_NOT_ASYNC = (
    "Invalid parameter: 'webhook_url' needs an asynchronous request. Use the path that ends in /async, or send "
    "'async': true, or the header 'prefer: respond-async'; not together with 'stream'."
)


async def with_webhook(
    request: ImagesRequest,
    headers: Headers,
    caller: Caller,
    webhooks: Webhooks,
    *,
    is_allowed: bool,
    is_async: bool,
) -> ImagesRequest:
    """Return the request with the address of its webhook, from its body or its header.

    `is_allowed`: whether webhooks are allowed to keys that say nothing of them.

    Raises:
        InvalidRequest: The address is wrong, or may not be reached, or the request is not asynchronous.
        Forbidden: The caller may not use webhooks.
    """
    given = {url for url in (request.webhook_url, headers.get(WEBHOOK_HEADER, "").strip()) if url}
    if not given:
        return request
    if not (is_allowed if caller.key is None or caller.key.webhooks is None else caller.key.webhooks):
        raise Forbidden(_NOT_ALLOWED, param=_PARAM, code="webhooks_not_allowed")
    if not is_async:
        raise UserError(_NOT_ASYNC, param=_PARAM, code="unsupported_parameter")
    if len(given) > 1:
        raise _invalid(f"the header '{WEBHOOK_HEADER}' names another address")
    (url,) = given
    try:
        await webhooks.sender.check(url)
    except (AddressBlocked, FetchError) as error:
        raise _invalid(str(error), error.detail) from None
    return replace(request, webhook_url=url)


def _invalid(reason: str, detail: str | None = None) -> InvalidRequest:
    message = f"Invalid '{_PARAM}': nothing can be sent there: {reason}."
    return InvalidRequest(message, param=_PARAM, code="invalid_value", detail=detail)
