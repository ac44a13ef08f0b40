"""The Images API as clients speak it: every parameter, and the request that is read from a JSON body or a form."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, Any, get_type_hints

from app.errors import InvalidRequest, UserError
from app.protocol.input_images import OnePicture, Picture, PictureList
from app.protocol.parameters import (
    ONLY_EDIT,
    ONLY_GENERATION,
    Boolean,
    Choice,
    FormPart,
    Goes,
    Integer,
    Object,
    Operation,
    Pairs,
    Parameter,
    Schema,
    Text,
)
from app.protocol.sizes import Size, SizeText
from app.protocol.validation_errors import clean_name, contradiction, missing

#: Names in the header.
_MOST = 32

#: Entries of the client's metadata that would choose over ours.
_OURS = {"size", "quality"}


def is_ours(key: str) -> bool:
    return key.strip().lower() in _OURS


def without_effect(rows: Iterable[Parameter], said: Mapping[str, Any], unread: Iterable[str]) -> tuple[str, ...]:
    """`said`: values by the names of `rows`; `unread`: what else the client sent.

    Looks no further than it needs to: a body may have millions of keys.
    """
    clean: dict[str, None] = {}
    for name in chain(_idle(rows, said), unread):
        if len(clean) == _MOST:
            break
        clean[clean_name(name)] = None
    return tuple(clean)


def _idle(rows: Iterable[Parameter], said: Mapping[str, Any]) -> Iterator[str]:
    for row in rows:
        if row.goes is Goes.NOWHERE and row.name in said:
            yield row.name
    if said.get("output_compression", 100) != 100 and said.get("output_format", "png") == "png":
        yield "output_compression"
    if said.get("partial_images") and not said.get("stream"):
        yield "partial_images"
    for key in filter(is_ours, said.get("metadata", ())):
        yield f"metadata.{key}"


__all__ = ["PARAMETERS", "FormPart", "ImagesRequest", "Operation", "Picture", "read_form", "read_json", "schema"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesRequest:
    """One checked request, its fields in the order of the checks. None: not said, so the model may choose.

    `user` is the safety identifier where both are given. `ignored` names, fit for a header, what had no effect.
    """

    operation: Operation
    model: Annotated[
        str | None,
        Parameter(
            Text(256, one_line=True),
            Goes.HERE,
            "Any name. It decides what `response_format` is by default; the upstream is asked for its own model.",
            examples=("gpt-image-2",),
        ),
    ] = None
    prompt: Annotated[
        str,
        Parameter(
            Text(32_000, minimum=1),
            Goes.MESSAGE,
            "What to paint, or what to change.",
            required=True,
            examples=("A lighthouse in a storm, oil on canvas",),
        ),
    ]
    images: Annotated[
        tuple[Picture, ...],
        Parameter(
            PictureList(16),
            Goes.MESSAGE,
            "The pictures to edit. In a form: `image`, repeated, `image[]` or `image[0]`.",
            ONLY_EDIT,
            required=True,
            in_json=("images", "image"),
            in_form=("image",),
        ),
    ] = ()
    mask: Annotated[
        Picture | None,
        Parameter(
            OnePicture(),
            Goes.MESSAGE,
            "A PNG as large as the first picture; where it is transparent, the picture is edited.",
            ONLY_EDIT,
        ),
    ] = None
    n: Annotated[
        int, Parameter(Integer(1, 10, unset="0"), Goes.HERE, "How many pictures; one question each.", examples=(2,))
    ] = 1
    quality: Annotated[
        str | None,
        Parameter(
            Choice(
                ("low", "medium", "high", "auto"),
                default="auto",
                also={"standard": "medium", "hd": "high", "xhigh": "high", "max": "high"},
            ),
            Goes.METADATA,
            "How much care is taken.",
        ),
    ] = None
    output_compression: Annotated[
        int | None, Parameter(Integer(0, 100), Goes.HERE, "Quality of a JPEG or WebP, in percent.", examples=(80,))
    ] = None
    size: Annotated[
        Size | None,
        Parameter(
            SizeText(),
            Goes.PREFIX,
            "How large the picture is to be. `image_size` is read where there is no `size`.",
            examples=("1536x1024",),
            in_json=("size", "image_size"),
            in_form=("size", "image_size"),
        ),
    ] = None
    background: Annotated[
        str | None,
        Parameter(
            Choice(("transparent", "opaque", "auto"), default="auto"), Goes.NOWHERE, "Say it in the prompt instead."
        ),
    ] = None
    output_format: Annotated[
        str | None,
        Parameter(
            Choice(("png", "jpeg", "webp")), Goes.HERE, "Converted where the upstream's picture has another one."
        ),
    ] = None
    response_format: Annotated[
        str | None, Parameter(Choice(("url", "b64_json")), Goes.HERE, "A link, or the bytes in base64.")
    ] = None
    stream: Annotated[bool, Parameter(Boolean(), Goes.HERE, "Answer with server-sent events; needs `n` = 1.")] = False
    partial_images: Annotated[
        int, Parameter(Integer(0, 3), Goes.HERE, "How many pictures on the way a stream may show.", examples=(2,))
    ] = 0
    safety_identifier: Annotated[
        str | None,
        Parameter(Text(512), Goes.TOP_LEVEL, "Identifies the end user; goes upstream as `user`.", examples=("u-17",)),
    ] = None
    user: Annotated[
        str | None,
        Parameter(
            Text(512), Goes.TOP_LEVEL, "Identifies the end user, without a `safety_identifier`.", examples=("u-17",)
        ),
    ] = None
    metadata: Annotated[
        Mapping[str, str],
        Parameter(
            Pairs(),
            Goes.METADATA,
            "Passed on, except `size` and `quality`. In a form: `metadata[key]`, or JSON text.",
            examples=({"project": "spring"},),
        ),
    ] = field(default_factory=dict)
    moderation: Annotated[
        str | None,
        Parameter(Choice(("auto", "low"), default="auto"), Goes.NOWHERE, "The upstream moderates itself."),
    ] = None
    style: Annotated[
        str | None,
        Parameter(Choice(("vivid", "natural")), Goes.NOWHERE, "Of dall-e-3. Say it in the prompt.", ONLY_GENERATION),
    ] = None
    input_fidelity: Annotated[
        str | None,
        Parameter(Choice(("high", "low"), default="low"), Goes.NOWHERE, "The upstream has no such choice.", ONLY_EDIT),
    ] = None
    complexity: Annotated[
        str | None, Parameter(Choice(("low", "medium", "high")), Goes.NOWHERE, "The upstream has no such choice.")
    ] = None
    frame_count: Annotated[
        int | None, Parameter(Integer(2, 16), Goes.NOWHERE, "Of animated GIFs, which are not made here.")
    ] = None
    frame_duration_ms: Annotated[
        int | None, Parameter(Integer(1, 60_000), Goes.NOWHERE, "Of animated GIFs, which are not made here.")
    ] = None
    svg: Annotated[
        Mapping[str, Any] | None, Parameter(Object(), Goes.NOWHERE, "Of vector images, which are not made here.")
    ] = None
    markup: Annotated[
        Picture | None,
        Parameter(OnePicture(), Goes.NOWHERE, "Of gpt-image-2.5. Send it as one more picture.", ONLY_EDIT),
    ] = None
    ignored: tuple[str, ...] = ()

    @property
    def size_text(self) -> str:
        """As in the API: `WxH` of the picture that the client is to get, or `auto`."""
        return "auto" if self.size is None else str(self.size)


def _annotated() -> Iterator[Parameter]:
    for name, hint in get_type_hints(ImagesRequest, include_extras=True).items():
        for parameter in getattr(hint, "__metadata__", ()):
            yield replace(parameter, name=name)


#: All parameters, in the order of the checks.
PARAMETERS = tuple(_annotated())

_ROWS = {operation: tuple(row for row in PARAMETERS if operation in row.operations) for operation in Operation}

_PICTURE_NAMES = frozenset(
    name for row in PARAMETERS if row.is_picture for form in (False, True) for name in row.names(form)
)


def read_json(operation: Operation, body: object) -> ImagesRequest:
    """`body` as orjson reads it. Raises InvalidRequest: the first thing that is wrong, in OpenAI's words."""
    if not isinstance(body, dict):
        raise InvalidRequest("The body of the request must be a JSON object.", code="invalid_type")
    never_null = {row.names(form=False)[0] for row in _ROWS[operation] if row.required}
    given = {name: value for name, value in body.items() if value is not None or name in never_null}
    for name, value in given.items():
        if operation is Operation.GENERATION and name in _PICTURE_NAMES and value:
            raise _belongs_to_edits(name)
    if given.get("images") and given.get("image"):
        raise contradiction("image")
    return _read(operation, given, form=False)


def read_form(operation: Operation, parts: Sequence[FormPart]) -> ImagesRequest:
    """`parts` in the order of the body. Raises InvalidRequest: the first thing that is wrong, in OpenAI's words."""
    given: dict[str, list[FormPart]] = {}
    for part in parts:
        name = part.name.partition("[")[0]
        if name == "prompt" or not _is_empty(part):
            given.setdefault(name, []).append(part)
    known = {name for row in _ROWS[operation] for name in row.names(form=True)}
    for name, values in given.items():
        if name not in known and (name in _PICTURE_NAMES or any(not isinstance(part.value, str) for part in values)):
            raise _lost_picture(operation, name)
    return _read(operation, given, form=True)


def _is_empty(part: FormPart) -> bool:
    """Browsers send an empty file for an input nobody used, go-openai an empty text for a field nobody set."""
    return part.value == "" if isinstance(part.value, str) else part.value.size == 0


def _lost_picture(operation: Operation, name: str) -> InvalidRequest:
    """A picture nobody would look at is refused before it costs money."""
    if operation is Operation.GENERATION:
        return _belongs_to_edits(name)
    message = f"Unknown parameter: '{clean_name(name)}'. For multipart/form-data use 'image' or 'image[]'."
    return InvalidRequest(message, param=clean_name(name), code="unknown_parameter")


def _belongs_to_edits(name: str) -> InvalidRequest:
    message = f"Unknown parameter: '{clean_name(name)}'. To edit pictures, use /v1/images/edits."
    return InvalidRequest(message, param=clean_name(name), code="unknown_parameter")


def _read(operation: Operation, given: Mapping[str, Any], *, form: bool) -> ImagesRequest:
    values: dict[str, Any] = {}
    used = set()
    for row in _ROWS[operation]:
        name = next((name for name in row.names(form) if name in given), None)
        if name is not None:
            used.add(name)
            values[row.name] = (row.kind.from_form if form else row.kind.from_json)(name, given[name])
        elif row.required:
            raise missing(row.names(form)[0])
    said = {name: value for name, value in values.items() if value is not None}
    _check_together(said)
    ignored = without_effect(PARAMETERS, said, (name for name in given if name not in used))
    return ImagesRequest(operation=operation, **_settle(said), ignored=ignored)


def _check_together(said: Mapping[str, Any]) -> None:
    if said.get("stream") and said.get("n", 1) > 1:
        raise UserError("Streaming is only supported with n=1.", param="input", code="unsupported_parameter")
    if said.get("background") == "transparent" and said.get("output_format") == "jpeg":
        message = "Transparent background is not supported for JPEG output format"
        raise UserError(message, param="background", code="invalid_value")


def _settle(said: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: text for key, text in said.get("metadata", {}).items() if not is_ours(key)}
    return {**said, "metadata": metadata, "user": said.get("safety_identifier") or said.get("user")}


def schema(operation: Operation, *, form: bool) -> Schema:
    """The body as JSON Schema, for the OpenAPI document. More is accepted than it says, and named in `ignored`."""
    rows = {row.names(form)[0]: row for row in _ROWS[operation]}
    return {
        "type": "object",
        "properties": {name: row.schema(form) for name, row in rows.items()},
        "required": [name for name, row in rows.items() if row.required],
    }
