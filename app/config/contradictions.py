"""Which settings contradict each other, although each is valid by itself."""

from typing import Protocol

from app.config.field_types import is_loopback, variable


class AllSettings(Protocol):
    """What these rules need to know of the settings, which they cannot import: the settings apply them."""

    @property
    def upstreams(self) -> object: ...
    @property
    def model_fields_set(self) -> set[str]: ...
    @property
    def pass_through(self) -> bool: ...
    @property
    def has_client_keys(self) -> bool: ...
    @property
    def allow_anonymous(self) -> bool: ...
    @property
    def host(self) -> str: ...
    @property
    def image_store(self) -> str: ...
    @property
    def shared_state(self) -> str: ...
    @property
    def allow_unshared(self) -> bool: ...
    @property
    def workers(self) -> int: ...
    @property
    def replicas(self) -> int: ...
    @property
    def max_upload_bytes(self) -> int: ...
    @property
    def max_request_bytes(self) -> int: ...
    @property
    def sign_certificates(self) -> object: ...
    @property
    def sign_key(self) -> object: ...
    @property
    def webhooks(self) -> bool: ...
    @property
    def webhook_secret(self) -> object: ...

    def location(self, field: str) -> str: ...


def single_and_list(settings: AllSettings) -> str | None:
    """Refuse settings for a single upstream beside a list, which they would have no effect on."""
    single = (
        *("upstream_base_url", "upstream_api_key", "upstream_model", "upstream_dialect", "upstream_headers"),
        "upstream_prices",
    )
    given = [field for field in single if field in settings.model_fields_set and getattr(settings, field)]
    if not settings.upstreams or not given:
        return None
    list_location = settings.location("upstreams")
    return f"{settings.location(given[0])}: set together with {list_location}, where each upstream has its own"


def unprotected_bind(settings: AllSettings) -> str | None:
    """Refuse to listen to other machines with an upstream key, but without client keys."""
    is_protected = settings.pass_through or settings.has_client_keys or settings.allow_anonymous
    if is_protected or is_loopback(settings.host):
        return None
    return (
        f"LIMNER_API_KEYS: unset, while LIMNER_HOST={settings.host} is reachable by others: anyone could spend the "
        "upstream key. Set LIMNER_API_KEYS, or LIMNER_ALLOW_ANONYMOUS=true if that is intended"
    )


def memory_store_with_workers(settings: AllSettings) -> str | None:
    """Refuse an image store that each process has for itself, if there are several processes."""
    several = _several_processes(settings)
    if several is None or settings.image_store != "memory:":
        return None
    return (
        f"LIMNER_IMAGE_STORE: memory: is visible to one process only, and {several}: most links to images would not "
        "work. Keep images on disk or in a bucket"
    )


def unshared_processes(settings: AllSettings) -> str | None:
    """Refuse several processes that know nothing of each other's jobs, unless the operator accepts it."""
    several = _several_processes(settings)
    if several is None or settings.shared_state != "memory:" or settings.allow_unshared:
        return None
    return (
        f"LIMNER_SHARED_STATE: unset, while {several}: a request that is repeated at another process would be paid for "
        "twice. Set LIMNER_SHARED_STATE to redis://…, or LIMNER_ALLOW_UNSHARED=true if you accept that"
    )


def _several_processes(settings: AllSettings) -> str | None:
    """Return the setting that makes more than one process serve clients."""
    counts = {"workers": settings.workers, "replicas": settings.replicas}
    return next((f"{variable(field)}={count}" for field, count in counts.items() if count > 1), None)


def uploads_below_a_request(settings: AllSettings) -> str | None:
    """Refuse a limit of all uploads that the largest request alone would exceed."""
    if settings.max_upload_bytes >= 2 * settings.max_request_bytes:
        return None
    return (
        f"LIMNER_MAX_UPLOAD_BYTES: {settings.max_upload_bytes} is less than twice LIMNER_MAX_REQUEST_BYTES "
        f"({settings.max_request_bytes}): a caller may use half of it, and could not send the largest request"
    )


def incomplete_signing(settings: AllSettings) -> str | None:
    """Refuse a part of what signing needs, which would have no effect."""
    given = [field for field in ("sign_key", "sign_timestamps", "sign") if field in settings.model_fields_set]
    if settings.sign_certificates is None and given:
        return f"{settings.location(given[0])}: has no effect without LIMNER_SIGN_CERTIFICATES"
    if settings.sign_certificates is not None and settings.sign_key is None:
        return "LIMNER_SIGN_KEY: unset, while LIMNER_SIGN_CERTIFICATES is set. Set it, or LIMNER_SIGN_KEY_FILE"
    return None


def unsigned_webhooks(settings: AllSettings) -> str | None:
    """Refuse webhooks that nothing secret could sign."""
    if not settings.webhooks or settings.has_client_keys or settings.webhook_secret is not None:
        return None
    return (
        "LIMNER_WEBHOOK_SECRET: unset, while LIMNER_WEBHOOKS=true and no client has a key of this server: their "
        "webhooks could not be signed. Set it to 24 random characters or more, or set LIMNER_API_KEYS"
    )


#: Each returns the line for an operator if values that are valid by themselves contradict each other.
CROSS_FIELD_RULES = (
    single_and_list,
    unprotected_bind,
    memory_store_with_workers,
    unshared_processes,
    uploads_below_a_request,
    incomplete_signing,
    unsigned_webhooks,
)
