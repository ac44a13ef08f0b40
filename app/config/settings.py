"""Every setting with its description, and which settings contradict each other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, FilePath, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app.config.connections import CertificateFile, HeaderTable, HeaderText, ProxyUrl
from app.config.contradictions import CROSS_FIELD_RULES
from app.config.dialects import DialectSetting, DialectTable
from app.config.environment import default_store
from app.config.field_types import (
    IN_LOWER_CASE,
    PREFIX,
    AllowList,
    BaseUrl,
    ByteCount,
    ClientKeyList,
    Currency,
    HeaderSecret,
    HostList,
    LedgerFile,
    ListenHost,
    LogLevel,
    LongSecret,
    ModelName,
    ModelNameList,
    OriginList,
    OtlpEndpoint,
    PositiveInt,
    Seconds,
    SecondsOrNever,
    Secret,
    ShrinkLimits,
    SigningCertificates,
    SizeModeSetting,
    StateUrl,
    StoreKey,
    StoreUrl,
    UpstreamUrl,
    WritableDir,
)
from app.config.prices import PriceSetting
from app.config.sources import ORIGINS, ConfigFileSource, FileSecretsSource, Origin, dot_env_source, origin_of
from app.config.upstreams import UpstreamEntry, UpstreamList, list_models
from app.config.validation import names_of, with_locations
from app.images.input_limits import DEFAULT_LIMITS
from app.protocol.size_fit import SizeMode
from app.upstream.spec import DEFAULT_MODEL

#: Fields that may also come from a file, named by the variable of the field with `_FILE` at its end.
SECRETS = (
    *("upstream_api_key", "upstream_proxy", "fetch_proxy", "api_keys", "image_store_key", "sign_key", "status_key"),
    "webhook_secret",
)


class Settings(BaseSettings):
    """All settings, one field for each variable. The description of a field is its line in the documentation.

    Values are taken from the first place that has one: arguments, the environment, `.env`, files of secrets, and the
    configuration file.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    upstream_base_url: UpstreamUrl | None = Field(
        description="The address of the upstream's API, like `https://api.aiearth.dev/v1`; `/chat/completions` at its "
        "end is left out. Required by `serve` and `check`, "
        "unless `LIMNER_UPSTREAMS` or a file lists several."
    )
    upstream_api_key: HeaderSecret | None = Field(
        None,
        description="The upstream's key. Unset: each caller's own Bearer token is passed on (pass-through).",
    )
    upstream_model: ModelName = Field(
        DEFAULT_MODEL,
        min_length=1,
        description="The model that is requested from the upstream, whatever the client named.",
    )
    upstream_dialect: DialectSetting = Field(
        DialectTable(preset=DEFAULT_MODEL),
        description="How the upstream is told size, quality and the rest: a [preset](upstreams.md#dialects), or JSON "
        'like `{"preset": "words", "size": {"words": "ratio"}}`.',
    )
    upstreams: UpstreamList = Field(
        (),
        description="Several upstreams, as a JSON list: see [Several upstreams](upstreams.md#several-upstreams). "
        "Replaces address, key, model and dialect above.",
    )
    config: Path | None = Field(
        None,
        description="A TOML file of settings: `[[upstreams]]` tables, and any setting by its name in "
        "lower case without `LIMNER_`. Variables win over the file. Unset: `limner.toml` in the folder where Limner is "
        "started, if it is there.",
    )
    upstream_headers: HeaderTable = Field(
        {},
        repr=False,
        description='Headers of each request to the upstream, as JSON: `{"X-Title": "Limner", "api-key": {"file": '
        '"/run/secrets/key"}}`. Several upstreams have [their own](upstreams.md#how-an-upstream-is-reached).',
    )
    upstream_prices: PriceSetting = Field(
        (),
        description="What the upstream charges, if it does not say so itself: the price of an image like `0.04`, or a "
        "JSON list of [rows](upstreams.md#costs). Several upstreams have their own.",
    )
    upstream_user_agent: HeaderText | None = Field(
        None, description="What Limner calls itself. Unset: `limner/` and its version; some firewalls refuse that."
    )
    upstream_proxy: ProxyUrl | None = Field(
        None,
        description="An HTTP proxy for requests to upstreams, like `http://user:password@proxy.example:3128`. "
        "Variables such as `HTTPS_PROXY` are not read.",
    )
    upstream_tls_ca: CertificateFile | None = Field(
        None, description="A file of certificates (PEM) that are trusted for upstreams, in place of the system's."
    )
    upstream_max_images_bytes: ByteCount | None = Field(
        None, description="Bytes of all input images of a request together that an upstream takes. Unset: no limit."
    )
    upstream_origin_downloads_with_key: bool = Field(
        True, description="Download images at an upstream's own address with its key, if they answer 401 without it."
    )
    currency: Currency = Field(
        "USD",
        description="The currency of all prices, costs and budgets, like `EUR`. What an upstream reports in another "
        "one is not counted.",
    )
    upstream_stream: Annotated[Literal["auto", "always", "never"], IN_LOWER_CASE] = Field(
        "auto", description="Whether a stream is requested from the upstream. `auto`: if the client requested one."
    )
    upstream_timeout: Seconds = Field(600, description="Seconds for one request, all attempts included.")
    upstream_connect_timeout: Seconds = Field(5, description="Seconds to connect to the upstream.")
    upstream_idle_timeout: Seconds = Field(300, description="Seconds of silence between two chunks of a reply.")
    upstream_attempts: int = Field(3, ge=1, le=10, description="Attempts for one request, at all upstreams together.")
    retry_ambiguous: bool = Field(
        False, description="Also retry after a 5xx that is no timeout, although a request may then be paid for twice."
    )

    api_keys: ClientKeyList = Field(
        (),
        description="Keys, separated by commas or line breaks, one of which a client must present. `sha256:` and 64 "
        "hexadecimal digits stand for a key by its digest.",
    )
    keys_file: FilePath | None = Field(None, description="A TOML file of [keys and limits](keys-and-limits.md).")
    webhooks: bool = Field(
        False,
        description="Whether asynchronous requests may name an address that is [told when they end](webhooks.md). A "
        "client key can have its own `webhooks`.",
    )
    webhook_secret: LongSecret | None = Field(
        None,
        description="24 characters or more, the same at all servers, from which the secret of each client key is made "
        "that signs its webhooks. Unset: they are made from the digests of the keys.",
    )
    shared_state: StateUrl = Field(
        "memory:", repr=False, description="`redis://host:6379`: makes [several servers](replicas.md) work as one."
    )
    state_down: Annotated[Literal["open", "closed"], IN_LOWER_CASE] = Field(
        "open",
        description="What happens while Redis is down: `open` continues without it, `closed` answers new requests with "
        "503.",
    )
    allow_unshared: bool = Field(
        False,
        description="Let several workers or replicas run without `LIMNER_SHARED_STATE`, although a client that repeats "
        "a request may then pay for it twice.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Let anyone who reaches this server spend the upstream key. Needed to listen on more than loopback "
        "without client keys.",
    )
    models: ModelNameList = Field(
        (), description="What `GET /v1/models` lists. Unset: official names and the upstream's."
    )
    default_response_format: Annotated[Literal["auto", "url", "b64_json"], IN_LOWER_CASE] = Field(
        "auto",
        description="What a client gets that requested no format. `auto`: `url` for `dall-e*` or no model, else "
        "`b64_json`.",
    )

    size: SizeModeSetting = Field(
        SizeMode.NATIVE,
        description="Which size images have. `native`: that of the upstream. `exact`: precisely that of the request, "
        "which may then be [any](images-api.md#exact-sizes). `exact; fit=contain`: the same, with padding instead of "
        "cropping.",
    )
    mask: Annotated[Literal["guide", "exact"], IN_LOWER_CASE] = Field(
        "guide",
        description="What a mask does: `guide` tells the upstream where to edit, `exact` also puts the rest back from "
        "the original, pixel by pixel, into a PNG of the original's size.",
    )
    strip_location: bool = Field(
        True, description="Whether input images lose the place where they were taken before they go upstream."
    )
    credentials: Annotated[Literal["strip", "keep"], IN_LOWER_CASE] = Field(
        "strip",
        description="What happens to a [signed manifest](provenance.md) if an image would have to be converted. "
        "`strip`: it is lost, and the header `x-limner-credentials` says so. `keep`: the image is only converted if "
        "the new file is signed.",
    )
    sign_certificates: SigningCertificates | None = Field(
        None,
        description="A PEM file with the certificate that [signs](provenance.md#signing) converted images, followed by "
        "those that have issued it. Needs `limner[c2pa]`.",
    )
    sign_key: Secret | None = Field(None, description="The private key of the certificate, as PEM without a password.")
    sign: Annotated[Literal["stripped", "converted"], IN_LOWER_CASE] = Field(
        "stripped",
        description="Which images are signed: `stripped` (those that would lose a signed manifest), or each that was "
        "`converted`.",
    )
    sign_timestamps: BaseUrl | None = Field(
        None,
        description="A time-stamp authority (RFC 3161) that confirms when an image was signed. Unset: none is asked.",
    )
    shrink_inputs: ShrinkLimits = Field(
        DEFAULT_LIMITS,
        description="Input images over this size, or with an edge of more pixels, are made smaller, since upstreams "
        "drop them: `20MiB,4096`, or `never`.",
    )
    pass_image_urls: bool = Field(
        False,
        description="Pass links of input images on to the upstream, instead of downloading them and sending bytes.",
    )

    fetch_allow: AllowList = Field(
        (),
        description="Comma-separated CIDRs, hosts or `host:port` that image downloads may reach although they are not "
        "public. An entry with a port opens only that port, one without opens every port.",
    )
    fetch_proxy: ProxyUrl | None = Field(
        None,
        description="An HTTP proxy for image downloads, as `LIMNER_UPSTREAM_PROXY`, which is used where this is unset; "
        "`none`: download directly. What `LIMNER_FETCH_ALLOW` opens is always reached directly.",
    )
    fetch_timeout: Seconds = Field(120, description="Seconds for one image download, retries included.")
    max_image_bytes: ByteCount = Field(ByteSize(64 * 2**20), description="Bytes of one image, in or out.")
    image_memory: Annotated[ByteSize, Field(ge=256 * 2**20)] = Field(
        ByteSize(2**30),
        description="Memory for decoding and converting images at once, per process. An image that needs more is "
        "refused: a result may need all of it, an input image seven eighths.",
    )
    max_request_bytes: ByteCount = Field(ByteSize(256 * 2**20), description="Bytes of one request body.")
    max_upload_bytes: ByteCount = Field(
        ByteSize(4 * 2**30),
        description="Bytes of request bodies that are received at once, per process; half of it for each caller.",
    )
    max_concurrency: PositiveInt = Field(256, description="Requests in flight at once, per process.")
    max_queue: int = Field(
        256, ge=0, le=1_000_000, description="Requests waiting for a slot, per process; one more gets a 429."
    )
    client_header_timeout: Seconds = Field(
        20, description="Seconds for a client to send the head of a request, and to be idle between two requests."
    )
    client_body_timeout: Seconds = Field(
        60,
        description="Seconds after which the connection of a client is cut that takes nothing of a response, or has "
        "sent less than the next 64 KiB of a body.",
    )
    keepalive_after: SecondsOrNever = Field(
        240,
        description="Seconds after which a JSON response that is not ready yet begins with white space, so that no "
        "proxy takes the silence for a dead connection; 0: never.",
    )
    shutdown_grace: Seconds = Field(300, description="Seconds for requests in flight when the server stops.")
    answer_ttl: Seconds = Field(
        600, description="Seconds that an undelivered result is kept for the same request of the same caller."
    )
    idempotency_ttl: Seconds = Field(86_400, description="Seconds that a result under an `Idempotency-Key` is kept.")
    max_answers: int = Field(1000, ge=0, le=1_000_000, description="Retained results at most; the oldest go first.")
    max_answers_bytes: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(2**30),
        description="Bytes of retained results at most: images, in memory or in files, and undelivered replies.",
    )
    spool_dir: WritableDir | None = Field(
        None, description="Folder for temporary files of images; unset: the system's."
    )
    spool_memory: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(64 * 2**20),
        description="Bytes of images that a worker holds in memory instead. Images of more than 256 KiB are in files.",
    )

    image_store: StoreUrl = Field(
        default_factory=default_store,
        description="Where images that need a URL are stored: `disk:///absolute/path`, `s3://bucket/prefix`, "
        "`gs://bucket/prefix`, `az://container/prefix` or `memory:`; see "
        "[Image storage](image-storage.md).",
    )
    image_store_key: StoreKey | None = Field(
        None,
        description="The bucket's key: `ID:SECRET` of S3, `ACCOUNT:KEY` of Azure, the JSON of a Google service "
        "account. Unset: what the provider's own tools would use.",
    )
    image_store_max_bytes: ByteCount | None = Field(
        None,
        description="Bytes of stored images at most; the oldest are deleted first. Unset: `10GiB` on disk, `256MiB` in "
        "memory. Buckets are not limited.",
    )
    store_serve: Annotated[Literal["presigned", "proxy"], IN_LOWER_CASE] = Field(
        "presigned",
        description="How clients get images from a bucket: by its own `presigned` URLs, or through this server.",
    )
    image_ttl: Seconds = Field(86_400, description="Seconds that a stored image can be fetched.")
    rehost: Annotated[Literal["never", "needed", "always"], IN_LOWER_CASE] = Field(
        "needed",
        description="Which images get a URL of this server: `needed` (only those without a URL that clients can use: "
        "data URLs, converted images, private addresses), `always`, or `never` (links are passed on, anything else is "
        "returned as a data URL).",
    )
    public_url: BaseUrl | None = Field(
        None, description="How clients reach this server, for the URLs of stored images. Unset: taken from the request."
    )

    page: bool = Field(
        True,
        description="Whether there are pages: to try the server at `/`, the API at `/docs`, the status at `/status`.",
    )
    status_key: HeaderSecret | None = Field(
        None,
        description="The key for `/status`. Unset: one of `LIMNER_API_KEYS`, or none while listening on loopback "
        "without such keys.",
    )
    host: ListenHost = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on.")
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that share the port, each with its own slots. Several need `LIMNER_SHARED_STATE`.",
    )
    replicas: PositiveInt = Field(
        1,
        description="Servers that clients reach under one address, this one included. Several need "
        "`LIMNER_SHARED_STATE`. Whatever starts them, like the Helm chart, sets this; Limner only checks it.",
    )
    cors_origins: OriginList = Field(
        ("*",),
        description="Origins whose pages may call this server, comma-separated. If the server needs no key, `*` stands "
        "for the pages of this machine only: see [Servers without keys](security.md#servers-without-keys).",
    )
    allowed_hosts: HostList = Field(
        (),
        description="Names under which clients reach a server that needs no key, comma-separated, besides those of "
        "this machine and of `LIMNER_PUBLIC_URL`; `*`: any.",
    )
    log_format: Annotated[Literal["auto", "console", "json"], IN_LOWER_CASE] = Field(
        "auto", description="`auto`: readable on a terminal, one JSON object a line elsewhere."
    )
    log_level: LogLevel = Field("info", description="The lowest level that is logged.")
    log_prompts: bool = Field(False, description="Also write prompts into the log and the ledger.")
    ledger: LedgerFile | None = Field(None, description="A file for one JSON line per request; `-`: standard output.")
    metrics: bool = Field(True, description="Whether Prometheus, or anyone without a key, may read `/metrics`.")
    traces: OtlpEndpoint | None = Field(None, description="A collector of OTLP over HTTP. Needs `limner[otel]`.")

    _origins: Mapping[str, Origin] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the files of secrets and the configuration file behind all variables."""
        secrets = FileSecretsSource(settings_cls, SECRETS)
        return (
            init_settings,
            env_settings,
            dot_env_source(settings_cls),
            secrets,
            ConfigFileSource(settings_cls, SECRETS),
        )

    @model_validator(mode="wrap")
    @classmethod
    def _validate(cls, values: dict[str, Any], validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Remember where each value was found, for errors, and apply `CROSS_FIELD_RULES`."""
        origins = values.get(ORIGINS, {})
        optional = {"upstream_base_url": None} if values.get("upstreams", ()) != () else {}
        try:
            settings = validate(optional | values)
        except ValidationError as error:
            raise with_locations(error, origins, names_of(values.get("upstreams"))) from None
        settings._origins = origins
        for rule in CROSS_FIELD_RULES:
            if (message := rule(settings)) is not None:
                raise PydanticCustomError("cross_field_rule", "{message}", {"message": message})
        return settings

    @property
    def effective_upstreams(self) -> tuple[UpstreamEntry, ...]:
        """All upstreams: those that are listed, or the one that the settings for a single one describe."""
        return self.upstreams or (
            UpstreamEntry(
                name="default",
                base_url=self.upstream_base_url or "",
                api_key=self.upstream_api_key,
                model=self.upstream_model,
                dialect=self.upstream_dialect,
                headers=self.upstream_headers,
                prices=self.upstream_prices,
            ),
        )

    @property
    def pass_through(self) -> bool:
        """Whether callers bring the upstream's keys."""
        return all(entry.api_key is None for entry in self.effective_upstreams)

    @property
    def has_client_keys(self) -> bool:
        """Whether a client must present a key of this server."""
        return bool(self.api_keys) or self.keys_file is not None

    def list_models(self, upstream: str | None = None, names: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the models that a client can name: see `app.config.upstreams.list_models`.

        `upstream` restricts them to those of one upstream, and `names` replaces `LIMNER_MODELS`.
        """
        entries = [entry for entry in self.effective_upstreams if upstream in {None, entry.name}]
        return list_models(entries, names or self.models)

    def location(self, field: str) -> str:
        """Return where a setting is written, for messages: `LIMNER_PORT`, or `port in limner.toml`."""
        return origin_of(field, self._origins).locate()

    def location_of(self, entry: UpstreamEntry, field: str) -> str:
        """Return where `base_url`, `api_key`, `model`, `dialect` or `proxy` of an upstream is written, for messages."""
        if not self.upstreams:
            return self.location(f"upstream_{field}")
        if field == "proxy" and entry.proxy is None:
            return self.location("upstream_proxy")
        from_file = getattr(entry, f"{field}_file", None) is not None
        name = f"{field}_file" if from_file else "models" if field == "model" and entry.models else field
        origin = origin_of("upstreams", self._origins)
        return f"{name} of the upstream '{entry.name}' in {origin.file or origin.name}"
