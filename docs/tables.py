"""Write the tables of the documentation that come from the code.

A page marks the place of a table by two comments. `make docs-tables` replaces what is between them.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase
from pydantic import ByteSize
from pydantic.fields import FieldInfo

from app.config.field_types import variable
from app.config.settings import SECRETS, Settings
from app.errors import ApiError
from app.images.input_limits import InputLimits
from app.observability.metrics import REGISTRY
from app.protocol.image_request import PARAMETERS
from app.protocol.parameters import BOTH, ONLY_EDIT, ONLY_GENERATION, Destination, Parameter
from app.protocol.size_wishes import size_for
from app.protocol.tiers import RESOLUTIONS
from app.upstream.spec import DEFAULT_MODEL
from docs.error_texts import ERROR_TEXTS, ErrorText

DOCS = Path(__file__).parent

_OPERATIONS = {BOTH: "both", ONLY_GENERATION: "generations", ONLY_EDIT: "edits"}

#: Defaults that depend on the user who runs the server, or are written in another way than they are held.
_COMPUTED_DEFAULTS = {
    "image_store": "`~/.local/state/limner/images`, or below `XDG_STATE_HOME`",
    "upstream_dialect": f"`{DEFAULT_MODEL}`",
}

#: The settings by subject, in the order of docs/settings.md. Each setting is in one of them.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "upstream": (
        *("upstream_base_url", "upstream_api_key", "upstream_model", "upstream_dialect", "upstreams", "config"),
        "upstream_prices",
        "currency",
        *("upstream_headers", "upstream_user_agent", "upstream_proxy", "upstream_tls_ca", "upstream_max_images_bytes"),
        *("upstream_origin_downloads_with_key",),
        *("upstream_stream", "upstream_timeout", "upstream_connect_timeout", "upstream_idle_timeout"),
        *("upstream_attempts", "retry_ambiguous"),
    ),
    "access": ("api_keys", "keys_file", "allow_anonymous", "cors_origins", "allowed_hosts"),
    "webhooks": ("webhooks", "webhook_secret"),
    "api": (
        "models",
        "default_response_format",
        "size",
        "mask",
        "credentials",
        *("sign_certificates", "sign_key", "sign", "sign_timestamps"),
        "shrink_inputs",
        "strip_location",
        "pass_image_urls",
        "keepalive_after",
    ),
    "downloads": ("fetch_allow", "fetch_proxy", "fetch_timeout"),
    "storage": (
        *("image_store", "image_store_key", "image_store_max_bytes", "store_serve", "image_ttl", "rehost"),
        "public_url",
    ),
    "jobs": ("answer_ttl", "idempotency_ttl", "max_answers", "max_answers_bytes"),
    "server": ("host", "port", "workers", "replicas", "shutdown_grace", "page", "status_key"),
    "limits": (
        *("max_concurrency", "max_queue", "max_request_bytes", "max_image_bytes", "max_upload_bytes", "image_memory"),
        *("client_header_timeout", "client_body_timeout", "spool_dir", "spool_memory"),
    ),
    "shared": ("shared_state", "state_down", "allow_unshared"),
    "observability": ("log_level", "log_format", "log_prompts", "ledger", "metrics", "traces"),
}

#: Statuses below 500 after which the official SDKs retry, unless the header `x-should-retry: false` is there.
_RETRIED_STATUSES = {408, 409, 429}


def settings_table(subject: str) -> str:
    return _table(("variable", "default", "meaning"), _setting_rows(SUBJECTS[subject]))


def _setting_rows(names: Iterable[str]) -> Iterator[tuple[str, str, str | None]]:
    """Yield a row for each variable; that of a secret is followed by that of the file with the secret."""
    for name in names:
        field = Settings.model_fields[name]
        yield f"`{variable(name)}`", _default(name, field), field.description
        if name in SECRETS:
            yield f"`{variable(f'{name}_file')}`", "unset", f"A file that contains `{variable(name)}`, in its place."


def _default(name: str, field: FieldInfo) -> str:
    """Return the default as one would write it into `.env`, where it is copied to."""
    if name in _COMPUTED_DEFAULTS:
        return _COMPUTED_DEFAULTS[name]
    if field.is_required():
        return "required"
    match field.default:
        case None | ():
            return "unset"
        case bool(value):
            return f"`{str(value).lower()}`"
        case ByteSize() as size:
            return f"`{size.human_readable().replace('.0', '')}`"
        case InputLimits(int(max_bytes), max_edge):
            return f"`{ByteSize(max_bytes).human_readable().replace('.0', '')},{max_edge}`"
        case tuple(values):
            return f"`{','.join(map(str, values))}`"
    return f"`{field.default}`"


def parameters_table() -> str:
    rows = (
        (
            _names(parameter),
            _OPERATIONS[parameter.operations],
            parameter.type.describe(),
            parameter.destination.value,
            parameter.description,
        )
        for parameter in PARAMETERS
    )
    return _table(("parameter", "of", "values", "where it goes", "meaning"), rows)


def _names(parameter: Parameter) -> str:
    name = ", ".join(f"`{name}`" for name in dict.fromkeys((*parameter.names(form=False), *parameter.names(form=True))))
    return f"{name} (required)" if parameter.required else name


#: The aspect ratios in the table of sizes. Others are accepted too.
_RATIOS = ("1:1", "5:4", "4:3", "3:2", "16:10", "16:9", "2:1", "21:9", "3:1")


def ratios_table() -> str:
    rows = (
        (f"`{ratio}`", *(str(size_for(width / height, tier)) for tier in (None, *RESOLUTIONS)))
        for ratio in _RATIOS
        for width, height in [map(int, ratio.split(":"))]
    )
    return _table(("ratio", "alone", *(f"`{tier}`" for tier in RESOLUTIONS)), rows)


def ignored_parameters() -> str:
    names = ", ".join(f"`{parameter.name}`" for parameter in PARAMETERS if parameter.destination is Destination.NONE)
    return f"{names}."


def errors_table() -> str:
    head = ("code, status, type", "what happened", "what to do", "SDKs retry", "costs")
    return _table(head, map(_error_row, ERROR_TEXTS))


def _error_row(text: ErrorText) -> tuple[str, ...]:
    code = f"`{text.code}`" if text.code else "(no code)"
    statuses = ", ".join(dict.fromkeys(str(kind.status) for kind in text.kinds))
    types = "<br>".join(f"`{name}`" for name in dict.fromkeys(text.type or kind.type for kind in text.kinds))
    retried = any(map(is_retried, text.kinds)) if text.is_retried is None else text.is_retried
    return f"{code}<br>{statuses} {types}", text.happened, text.remedy, "yes" if retried else "no", text.costs


def is_retried(kind: type[ApiError]) -> bool:
    """Return whether the official SDKs repeat a request by themselves after an error of this class."""
    return kind.should_retry is not False and (kind.status in _RETRIED_STATUSES or kind.status >= 500)


def metrics_table() -> str:
    metrics = [each for each in REGISTRY._collector_to_names if isinstance(each, MetricWrapperBase)]
    return _table(("metric", "type", "labels", "meaning"), map(_metric_row, metrics))


def _metric_row(metric: MetricWrapperBase) -> tuple[str | None, ...]:
    name = f"`{metric._name}_total`" if metric._type == "counter" else f"`{metric._name}`"
    return name, metric._type, ", ".join(f"`{label}`" for label in metric._labelnames), metric._documentation


def _table(head: Iterable[str], rows: Iterable[Iterable[str | None]]) -> str:
    head = tuple(head)
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join((cell or '').replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


#: By page: each generated part by its name.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "settings.md": {f"{subject} settings": lambda subject=subject: settings_table(subject) for subject in SUBJECTS},  # type: ignore[misc]
    "images-api.md": {"ratios": ratios_table, "parameters": parameters_table},
    "differences.md": {"ignored": ignored_parameters},
    "errors.md": {"errors": errors_table},
    "observability.md": {"metrics": metrics_table},
}


def with_tables(page: str, text: str) -> str:
    """Return the text of a page with its generated parts renewed, each between its two comments."""
    for name, make in TABLES[page].items():
        above, opening, rest = text.partition(f"<!-- {name}: generated by `make docs-tables` -->\n")
        _, closing, below = rest.partition(f"<!-- end of {name} -->")
        if not closing:
            raise SystemExit(f"docs/{page} has no place for: {name}")
        text = f"{above}{opening}\n{make()}\n\n{closing}{below}"
    return text


def variables_in(text: str) -> set[str]:
    """Return the variables that have a row in a table of the text."""
    return set(re.findall(r"^\| `(LIMNER_\w+)`", text, re.MULTILINE))


if __name__ == "__main__":
    for page in TABLES:
        path = DOCS / page
        path.write_text(with_tables(page, path.read_text()))
