"""The list of upstreams: `[[upstreams]]` tables of the configuration file, or JSON in `LIMNER_UPSTREAMS`."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import NoDecode

from app.config.connections import CertificateFile, HeaderTable, HeaderText, ProxyUrl, ProxyUrlFile
from app.config.dialects import DialectSetting, DialectTable
from app.config.field_types import (
    IN_LOWER_CASE,
    ByteCount,
    HeaderSecret,
    HeaderSecretFile,
    ModelName,
    PositiveInt,
    Seconds,
    UpstreamUrl,
    written_as,
)
from app.config.prices import PriceRows
from app.upstream.spec import DEFAULT_MODEL, WILDCARD, ModelMap

#: What `GET /v1/models` lists. The model picker of n8n shows only ids that contain `gpt-image` or `dall-e`.
OFFICIAL_MODELS = (
    *("gpt-image-2", "gpt-image-2-2026-04-21"),
    *("gpt-image-2.5-sunburst", "gpt-image-2.5-sunburst-2026-09-08"),
    *("gpt-image-2.5-flare", "gpt-image-2.5-flare-2026-09-08"),
    *("gpt-image-2.6-sunburst", "gpt-image-2.6-flare", "gpt-image-1.5", "gpt-image-1-mini", "chatgpt-image-latest"),
)

#: Models that OpenAI has shut down. Clients that still name them are served.
RETIRED_MODELS = ("gpt-image-1", "dall-e-3", "dall-e-2")


class UpstreamEntry(BaseModel):
    """One upstream as an operator writes it.

    Attributes:
        api_key: None passes each caller's own key on.
        model: Requested whatever the client named. Without `model` and `models` that is the default model.
        models: Maps the names of clients to the upstream's names. `*` stands for all other names, as `model` does.
            Without either of these two, the upstream has only the models that are listed.
        priority: Lower is tried first; equal ones share requests in proportion to their `weight`.
        max_concurrency: Requests in flight at once.
        prices: What replies cost, where the upstream does not say it.

    What is None below is as in the setting `LIMNER_UPSTREAM_…` of the same name.

    Attributes:
        headers: Sent with each request.
        proxy: `none` stands for no proxy.
        tls_ca: A file of the certificates that are trusted in place of the system's.
        timeout: Seconds for one attempt here, whatever the limit of the whole request.
        max_images_bytes: Requests whose input images have more bytes altogether do not go here.
        origin_downloads_with_key: Images at this upstream's own address are downloaded with its key if they need it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Annotated[str, written_as(r"[a-z0-9][a-z0-9._-]{0,62}", "1 to 63 small letters, digits and . _ -")]
    base_url: UpstreamUrl
    api_key_file: HeaderSecretFile | None = None
    api_key: HeaderSecret | None = Field(default_factory=lambda given: given.get("api_key_file"))
    model: ModelName | None = None
    models: dict[ModelName, ModelName] = {}
    dialect: DialectSetting = DialectTable(preset=DEFAULT_MODEL)
    priority: Annotated[int, Field(ge=0, le=1000)] = 0
    weight: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] = 1.0
    max_concurrency: PositiveInt | None = None
    headers: HeaderTable = {}
    user_agent: HeaderText | None = None
    proxy_file: ProxyUrlFile | None = None
    proxy: ProxyUrl | None = Field(default_factory=lambda given: given.get("proxy_file"))
    tls_ca: CertificateFile | None = None
    timeout: Seconds | None = None
    idle_timeout: Seconds | None = None
    stream: Annotated[Literal["auto", "always", "never"], IN_LOWER_CASE] | None = None
    max_images_bytes: ByteCount | None = None
    origin_downloads_with_key: bool | None = None
    prices: PriceRows = ()

    @model_validator(mode="after")
    def _check_exclusive_fields(self) -> Self:
        if self.model is not None and WILDCARD in self.models:
            raise PydanticCustomError("two_models", "either `model` or `*` in `models`: they mean the same")
        if self.api_key_file is not None and "api_key" in self.model_fields_set:
            raise PydanticCustomError("two_keys", "either `api_key` or `api_key_file`")
        if self.proxy_file is not None and "proxy" in self.model_fields_set:
            raise PydanticCustomError("two_proxies", "either `proxy` or `proxy_file`")
        return self

    @property
    def model_map(self) -> ModelMap:
        """Which of the upstream's models a client's name stands for."""
        default = self.model or self.models.get(WILDCARD) or (None if self.models else DEFAULT_MODEL)
        return ModelMap(default, self.models)


def _parse_list(value: object) -> object:
    """Parse JSON. A list, as TOML has it, must be one of tables and not be empty."""
    if isinstance(value, tuple):
        return value
    try:
        entries = orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        entries = None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise PydanticCustomError(
            "upstreams", '[[upstreams]] tables in TOML, or a JSON list like [{"name": "main", "base_url": "https://…"}]'
        )
    return entries


def _check_list(entries: tuple[UpstreamEntry, ...]) -> tuple[UpstreamEntry, ...]:
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise PydanticCustomError("names", "a different name for each upstream")
    if len({entry.api_key is None for entry in entries}) > 1:
        # A caller's key is either one of this server's or one of the upstream's. With both kinds of upstreams, a key of
        # this server would be passed on to an upstream without a key of its own.
        raise PydanticCustomError("keys", "a key for each upstream, or for none (then each caller's own is passed on)")
    return entries


UpstreamList = Annotated[tuple[UpstreamEntry, ...], NoDecode, BeforeValidator(_parse_list), AfterValidator(_check_list)]


def list_models(entries: Sequence[UpstreamEntry], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the models that a client can name: those of `names` if there are any.

    Otherwise these are the official names if all names are accepted, the upstreams' own names of their default models,
    and the names that are mapped. Models that no upstream has are left out.
    """
    if names:
        return tuple(dict.fromkeys(name for name in names if any(entry.model_map.resolve(name) for entry in entries)))
    defaults = [entry.model_map.default for entry in entries if entry.model_map.default is not None]
    mapped = [name for entry in entries for name in entry.models if name != WILDCARD]
    return tuple(dict.fromkeys((*(OFFICIAL_MODELS if defaults else ()), *defaults, *mapped)))
