"""Every environment variable, with its reason; nothing else reads the environment."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, FilePath, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from app.config.field_types import (
    PREFIX,
    AllowList,
    BaseUrl,
    ByteCount,
    ClientKeyList,
    ClientKeyListFile,
    DialectName,
    HeaderSecret,
    HeaderSecretFile,
    LedgerFile,
    OtlpEndpoint,
    PositiveInt,
    Seconds,
    Secret,
    SecretFile,
    ShrinkLimits,
    StateUrl,
    StoreUrl,
    StringList,
    WritableDir,
    variable,
)
from app.config.upstreams import OFFICIAL_MODELS, UpstreamEntry, UpstreamList
from app.config.validation import CROSS_FIELD_RULES
from app.images.transcode import InputLimits
from app.upstream.spec import WILDCARD

#: Where several upstreams may be listed.
CONFIG_FILE = "limner.toml"


def _default_store() -> str:
    """The state folder of the user who runs the server, by the XDG rules: the only other variable that is read."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return f"disk://{Path(home).expanduser().absolute()}/limner/images"


class Settings(BaseSettings):
    """One field a variable. A description is the variable's line in the README."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        extra="ignore",
        env_ignore_empty=True,
        frozen=True,
        hide_input_in_errors=True,
    )

    upstream_base_url: BaseUrl | None = Field(
        description="Where the chat upstream is, like `https://api.aiearth.dev/v1`. Required by `serve` and `check`, "
        "but where `LIMNER_UPSTREAMS` or a file lists several."
    )
    upstream_api_key_file: HeaderSecretFile | None = Field(
        None, description="A file with the upstream's key, in its place."
    )
    upstream_api_key: HeaderSecret | None = Field(
        default_factory=lambda given: given["upstream_api_key_file"],
        description="The upstream's key. Unset: each caller's own Bearer token is passed on (pass-through).",
    )
    upstream_model: str = Field(
        "gpt-image-2-chat", min_length=1, description="What the upstream is asked for, whatever the client named."
    )
    upstream_dialect: DialectName = Field(
        "gpt-image-2-chat",
        description="How the upstream wants to be asked: `gpt-image-2-chat` (size as prompt prefix, quality in "
        "metadata), `metadata` (size in metadata too, prompt untouched), `openrouter` (modalities and image_config).",
    )
    upstreams: UpstreamList = Field(
        (),
        description="Several upstreams, as a JSON list: see [Several upstreams](#several-upstreams). Takes the place "
        "of address, key, model and dialect above.",
    )
    config: Path | None = Field(
        None,
        description="A TOML file that lists them instead. Unset: `limner.toml` in the folder where Limner is started, "
        "if it is there and no variable names an upstream.",
    )
    upstream_stream: Literal["auto", "always", "never"] = Field(
        "auto", description="Whether the upstream is asked for a stream. `auto`: when the client asked for one."
    )
    upstream_timeout: Seconds = Field(600, description="Seconds for one question, all attempts included.")
    upstream_connect_timeout: Seconds = Field(5, description="Seconds to connect to the upstream.")
    upstream_idle_timeout: Seconds = Field(120, description="Seconds of silence between two pieces of a reply.")
    upstream_attempts: int = Field(3, ge=1, le=10, description="Tries of one question, the first counted.")
    retry_ambiguous: bool = Field(
        False, description="Also ask again after a 500 or 502: such a question may be paid for twice."
    )

    api_keys_file: ClientKeyListFile = Field(
        (), description="A file with the keys of clients, one a line, in place of `LIMNER_API_KEYS`."
    )
    api_keys: ClientKeyList = Field(
        default_factory=lambda given: given["api_keys_file"],
        description="Comma-separated keys, one of which a client must present. `sha256:` and 64 hexadecimal digits "
        "stand for a key that is not told.",
    )
    keys_file: FilePath | None = Field(None, description="A TOML file of [keys and limits](#keys-and-limits).")
    shared_state: StateUrl = Field(
        "memory:", repr=False, description="`redis://host:6379`: makes [several servers](#several-servers) one."
    )
    state_down: Literal["open", "closed"] = Field("open", description="Without Redis: `open` goes on alone, or 503.")
    allow_anonymous: bool = Field(
        False,
        description="Let anyone who reaches this server spend the upstream key: needed to run open off loopback.",
    )
    models: StringList = Field((), description="What `GET /v1/models` lists. Unset: official names and the upstream's.")
    default_response_format: Literal["auto", "url", "b64_json"] = Field(
        "auto",
        description="What a client gets that did not ask. `auto`: `url` for `dall-e*` or no model, else `b64_json`.",
    )

    mask: Literal["guide", "exact"] = Field(
        "guide",
        description="What a mask does: `guide` tells the upstream where to edit, `exact` also puts the rest back from "
        "the original, pixel by pixel, into a PNG of the original's size.",
    )
    shrink_inputs: ShrinkLimits = Field(
        InputLimits(20 * 2**20, 4096),
        description="Input pictures over this size, or with an edge of more pixels, are made smaller, since upstreams "
        "drop them: `20MiB,4096`, or `never`.",
    )
    pass_image_urls: bool = Field(
        False,
        description="Hand links of input pictures on to the upstream instead of downloading them and sending bytes.",
    )

    fetch_allow: AllowList = Field(
        (),
        description="Comma-separated CIDRs, hosts or `host:port` that image downloads may reach although not public. "
        "Opens exactly what it names.",
    )
    fetch_timeout: Seconds = Field(120, description="Seconds for one image download, retries included.")
    max_image_bytes: ByteCount = Field(
        ByteSize(64 * 2**20), description="One image, in or out (`64MiB` is understood)."
    )
    max_request_bytes: ByteCount = Field(ByteSize(256 * 2**20), description="One request body.")
    max_concurrency: PositiveInt = Field(256, description="Questions under way at once, per process.")
    max_queue: int = Field(
        256, ge=0, le=1_000_000, description="Requests waiting for a turn, per process; one more gets a 429."
    )
    client_header_timeout: Seconds = Field(
        20, description="Seconds that a client gets to send the head of a request, and that it may be idle between two."
    )
    client_body_timeout: Seconds = Field(
        60,
        description="Seconds without progress after which a client is cut that sends a body or takes an answer.",
    )
    keepalive_after: float = Field(
        240,
        ge=0,
        le=86_400,
        description="Seconds after which a plain JSON answer that is not ready yet begins with white space, so that "
        "nobody between takes the silence for death; 0: never.",
    )
    shutdown_grace: Seconds = Field(300, description="Seconds that questions under way get when the server stops.")
    answer_ttl: Seconds = Field(
        600, description="Seconds that a paid answer nobody took is kept for the same question of the same caller."
    )
    idempotency_ttl: Seconds = Field(86_400, description="Seconds that an answer under an `Idempotency-Key` is kept.")
    max_answers: int = Field(1000, ge=0, le=1_000_000, description="Kept answers at most; the oldest go first.")
    max_answers_bytes: Annotated[ByteSize, Field(ge=0)] = Field(
        ByteSize(2**30), description="Bytes of the pictures of kept answers at most, in the spool folder."
    )
    spool_dir: WritableDir | None = Field(
        None, description="Folder for temporary files of images. Unset: the system's."
    )

    image_store: StoreUrl = Field(
        default_factory=_default_store,
        description="Where kept images live: `disk:///absolute/path`, `s3://bucket/prefix`, `gs://bucket/prefix`, "
        "`az://container/prefix` or `memory:`; see [Where pictures are kept](#where-pictures-are-kept).",
    )
    image_store_key_file: SecretFile | None = Field(None, description="A file with the bucket's key, in its place.")
    image_store_key: Secret | None = Field(
        default_factory=lambda given: given["image_store_key_file"],
        description="The bucket's key: `ID:SECRET` of S3, `ACCOUNT:KEY` of Azure, the JSON of a Google service "
        "account. Unset: what the provider's own tools would use.",
    )
    image_store_max_bytes: ByteCount | None = Field(
        None,
        description="Bytes of kept images at most, the oldest go first. Unset: `10GiB` on disk, `256MiB` in memory. "
        "Buckets are not bounded.",
    )
    store_serve: Literal["presigned", "proxy"] = Field(
        "presigned",
        description="How clients get at images in a bucket: `presigned` URLs of its own, or through this server.",
    )
    image_ttl: Seconds = Field(86_400, description="Seconds a kept image can be fetched.")
    rehost: Literal["never", "needed", "always"] = Field(
        "needed",
        description="Which images get a URL of this server: `needed` (only what has no URL of its own: data URLs, "
        "converted images), `always`, or `never` (then such an image is answered as a data URL).",
    )
    public_url: BaseUrl | None = Field(
        None, description="How clients reach this server, for the URLs of kept images. Unset: taken from the request."
    )

    page: bool = Field(True, description="Whether there are pages: to try it at `/`, for operators at `/status`.")
    status_key: HeaderSecret | None = Field(
        None,
        description="The key for `/status`. Unset: one of `LIMNER_API_KEYS`, or none while listening on loopback "
        "without such keys.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on.")
    workers: int = Field(1, ge=1, le=256, description="Processes that share the port, each with its own turns.")
    cors_origins: StringList = Field(("*",), description="Origins whose pages may call this server, comma-separated.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto`: readable on a terminal, one JSON object a line elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is logged.")
    log_prompts: bool = Field(False, description="Also write prompts into the log and the ledger.")
    ledger: LedgerFile | None = Field(None, description="A file for one line of JSON a question; `-`: standard output.")
    metrics: bool = Field(True, description="Whether Prometheus, or anyone without a key, may read `/metrics`.")
    traces: OtlpEndpoint | None = Field(None, description="A collector of OTLP over HTTP. Needs `limner[otel]`.")

    @model_validator(mode="before")
    @classmethod
    def _find_config_file(cls, given: dict[str, Any]) -> dict[str, Any]:
        """`config` is afterwards the file that the list comes from."""
        file = given.get("config") or (
            CONFIG_FILE if "upstream_base_url" not in given and Path(CONFIG_FILE).is_file() else ""
        )
        found = {"upstreams": Path(file), "config": file} if file and "upstreams" not in given else {"config": None}
        given = given | found
        return {"upstream_base_url": None} | given if given.get("upstreams") else given

    @model_validator(mode="after")
    def _check_cross_field_rules(self) -> Self:
        for find in CROSS_FIELD_RULES:
            if (message := find(self)) is not None:
                raise PydanticCustomError("contradiction", "{message}", {"message": message})
        return self

    @property
    def effective_upstreams(self) -> tuple[UpstreamEntry, ...]:
        """All upstreams: those listed, or the one that the variables for one describe."""
        return self.upstreams or (
            UpstreamEntry(
                name="default",
                base_url=self.upstream_base_url or "",
                api_key=self.upstream_api_key,
                model=self.upstream_model,
                dialect=self.upstream_dialect,
            ),
        )

    @property
    def pass_through(self) -> bool:
        """Whether callers bring the upstream's keys."""
        return all(entry.api_key is None for entry in self.effective_upstreams)

    @property
    def has_client_keys(self) -> bool:
        """Whether a client must present one."""
        return bool(self.api_keys) or self.keys_file is not None

    def list_models(self, upstream: str | None = None, names: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Those of `names`, or else of LIMNER_MODELS, that the upstream has; None: any of them.

        Without either the official names where all names are taken, what the upstreams call them, and what they are
        mapped from.
        """
        entries = [entry for entry in self.effective_upstreams if upstream in {None, entry.name}]
        chosen = [name for name in names or self.models if any(entry.model_map.resolve(name) for entry in entries)]
        if names or self.models:
            return tuple(dict.fromkeys(chosen))
        rest = [entry.model_map.default for entry in entries if entry.model_map.default is not None]
        mapped = [name for entry in entries for name in entry.models if name != WILDCARD]
        return tuple(dict.fromkeys((*(OFFICIAL_MODELS if rest else ()), *rest, *mapped)))

    def location_of(self, entry: UpstreamEntry, field: str) -> str:
        """Return where an operator has set a field of this upstream, as text for messages.

        `field` is `base_url`, `api_key` or `model`. The text names the variable, or the field within the list of
        upstreams and the place of that list.
        """
        if not self.upstreams:
            from_file = field == "api_key" and self.upstream_api_key_file is not None
            return variable(f"upstream_{field}_file" if from_file else f"upstream_{field}")
        from_file = field == "api_key" and entry.api_key_file is not None
        name = f"{field}_file" if from_file else "models" if field == "model" and entry.models else field
        return f"{name} of the upstream '{entry.name}' in {self.config or 'LIMNER_UPSTREAMS'}"


def terminal_names() -> tuple[str, ...]:
    """What the terminal calls itself: it decides nothing but whether `limner paint` shows the picture."""
    return tuple(filter(None, map(os.environ.get, ("TERM", "TERM_PROGRAM"))))


def set_variable(name: str, value: str) -> None:
    """For a library that reads it in the processes that this one starts."""
    os.environ[name] = value


def unknown_variables() -> list[str]:
    """LIMNER_ variables, of the environment or the .env file, that no field reads: mostly misspelt ones."""
    known = {variable(field) for field in Settings.model_fields}
    given = os.environ.keys() | {name.upper() for name in DotEnvSettingsSource(Settings).env_vars}
    return sorted(name for name in given if name.startswith(PREFIX) and name not in known)
