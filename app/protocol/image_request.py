"""The Images API as clients speak it: every parameter, and the request that is read from a JSON body or a form."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, Any, get_type_hints

from app.errors import InvalidRequest, UserError
from app.protocol.input_images import ImageListParam, ImageParam, InputImage
from app.protocol.parameters import (
    ONLY_EDIT,
    ONLY_GENERATION,
    BooleanParam,
    ChoiceParam,
    Destination,
    FormPart,
    IntegerParam,
    ObjectParam,
    Operation,
    Parameter,
    Schema,
    StringMapParam,
    TextParam,
)
from app.protocol.sizes import Size, SizeParam
from app.protocol.validation_errors import conflicting_values, header_safe_name, missing_parameter

#: Names in the header.
_MAX_IGNORED = 32

#: Entries of the client's metadata that would choose over ours.
_RESERVED_METADATA = {"size", "quality"}


def is_reserved_metadata(key: str) -> bool:
    return key.strip().lower() in _RESERVED_METADATA


def ignored_parameters(rows: Iterable[Parameter], values: Mapping[str, Any], unread: Iterable[str]) -> tuple[str, ...]:
    """`said`: values by the names of `rows`; `unread`: what else the client sent.

    Looks no further than it needs to: a body may have millions of keys.
    """
    clean: dict[str, None] = {}
    for name in chain(_ignored_names(rows, values), unread):
        if len(clean) == _MAX_IGNORED:
            break
        clean[header_safe_name(name)] = None
    return tuple(clean)


def _ignored_names(rows: Iterable[Parameter], said: Mapping[str, Any]) -> Iterator[str]:
    for row in rows:
        if row.destination is Destination.NONE and row.name in said:
            yield row.name
    if said.get("output_compression", 100) != 100 and said.get("output_format", "png") == "png":
        yield "output_compression"
    if said.get("partial_images") and not said.get("stream"):
        yield "partial_images"
    for key in filter(is_reserved_metadata, said.get("metadata", ())):
        yield f"metadata.{key}"


__all__ = ["PARAMETERS", "FormPart", "ImagesRequest", "InputImage", "Operation", "read_form", "read_json", "schema"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesRequest:
    """One checked request, its fields in the order of the checks. None: not said, so the model may choose.

    `user` is the safety identifier where both are given. `ignored` names, fit for a header, what had no effect.
    """

    operation: Operation
    model: Annotated[
        str | None,
        Parameter(
            TextParam(256, one_line=True),
            Destination.LOCAL,
            "Any name. It decides what `response_format` is by default; the upstream is asked for its own model.",
            examples=("gpt-image-2",),
        ),
    ] = None
    prompt: Annotated[
        str,
        Parameter(
            TextParam(32_000, minimum=1),
            Destination.MESSAGE,
            "What to paint, or what to change.",
            required=True,
            examples=("A lighthouse in a storm, oil on canvas",),
        ),
    ]
    images: Annotated[
        tuple[InputImage, ...],
        Parameter(
            ImageListParam(16),
            Destination.MESSAGE,
            "The pictures to edit. In a form: `image`, repeated, `image[]` or `image[0]`.",
            ONLY_EDIT,
            required=True,
            json_names=("images", "image"),
            form_names=("image",),
        ),
    ] = ()
    mask: Annotated[
        InputImage | None,
        Parameter(
            ImageParam(),
            Destination.MESSAGE,
            "A PNG as large as the first picture; where it is transparent, the picture is edited.",
            ONLY_EDIT,
        ),
    ] = None
    n: Annotated[
        int,
        Parameter(
            IntegerParam(1, 10, unset="0"), Destination.LOCAL, "How many pictures; one question each.", examples=(2,)
        ),
    ] = 1
    quality: Annotated[
        str | None,
        Parameter(
            ChoiceParam(
                ("low", "medium", "high", "auto"),
                default="auto",
                aliases={"standard": "medium", "hd": "high", "xhigh": "high", "max": "high"},
            ),
            Destination.METADATA,
            "How much care is taken.",
        ),
    ] = None
    output_compression: Annotated[
        int | None,
        Parameter(IntegerParam(0, 100), Destination.LOCAL, "Quality of a JPEG or WebP, in percent.", examples=(80,)),
    ] = None
    size: Annotated[
        Size | None,
        Parameter(
            SizeParam(),
            Destination.PREFIX,
            "How large the picture is to be. `image_size` is read where there is no `size`.",
            examples=("1536x1024",),
            json_names=("size", "image_size"),
            form_names=("size", "image_size"),
        ),
    ] = None
    background: Annotated[
        str | None,
        Parameter(
            ChoiceParam(("transparent", "opaque", "auto"), default="auto"),
            Destination.NONE,
            "Say it in the prompt instead.",
        ),
    ] = None
    output_format: Annotated[
        str | None,
        Parameter(
            ChoiceParam(("png", "jpeg", "webp")),
            Destination.LOCAL,
            "Converted where the upstream's picture has another one.",
        ),
    ] = None
    response_format: Annotated[
        str | None, Parameter(ChoiceParam(("url", "b64_json")), Destination.LOCAL, "A link, or the bytes in base64.")
    ] = None
    stream: Annotated[
        bool, Parameter(BooleanParam(), Destination.LOCAL, "Answer with server-sent events; needs `n` = 1.")
    ] = False
    partial_images: Annotated[
        int,
        Parameter(
            IntegerParam(0, 3), Destination.LOCAL, "How many pictures on the way a stream may show.", examples=(2,)
        ),
    ] = 0
    safety_identifier: Annotated[
        str | None,
        Parameter(
            TextParam(512),
            Destination.TOP_LEVEL,
            "Identifies the end user; goes upstream as `user`.",
            examples=("u-17",),
        ),
    ] = None
    user: Annotated[
        str | None,
        Parameter(
            TextParam(512),
            Destination.TOP_LEVEL,
            "Identifies the end user, without a `safety_identifier`.",
            examples=("u-17",),
        ),
    ] = None
    metadata: Annotated[
        Mapping[str, str],
        Parameter(
            StringMapParam(),
            Destination.METADATA,
            "Passed on, except `size` and `quality`. In a form: `metadata[key]`, or JSON text.",
            examples=({"project": "spring"},),
        ),
    ] = field(default_factory=dict)
    moderation: Annotated[
        str | None,
        Parameter(ChoiceParam(("auto", "low"), default="auto"), Destination.NONE, "The upstream moderates itself."),
    ] = None
    style: Annotated[
        str | None,
        Parameter(
            ChoiceParam(("vivid", "natural")), Destination.NONE, "Of dall-e-3. Say it in the prompt.", ONLY_GENERATION
        ),
    ] = None
    input_fidelity: Annotated[
        str | None,
        Parameter(
            ChoiceParam(("high", "low"), default="low"), Destination.NONE, "The upstream has no such choice.", ONLY_EDIT
        ),
    ] = None
    complexity: Annotated[
        str | None,
        Parameter(ChoiceParam(("low", "medium", "high")), Destination.NONE, "The upstream has no such choice."),
    ] = None
    frame_count: Annotated[
        int | None, Parameter(IntegerParam(2, 16), Destination.NONE, "Of animated GIFs, which are not made here.")
    ] = None
    frame_duration_ms: Annotated[
        int | None, Parameter(IntegerParam(1, 60_000), Destination.NONE, "Of animated GIFs, which are not made here.")
    ] = None
    svg: Annotated[
        Mapping[str, Any] | None,
        Parameter(ObjectParam(), Destination.NONE, "Of vector images, which are not made here."),
    ] = None
    markup: Annotated[
        InputImage | None,
        Parameter(ImageParam(), Destination.NONE, "Of gpt-image-2.5. Send it as one more picture.", ONLY_EDIT),
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

_PARAMETERS_OF = {operation: tuple(row for row in PARAMETERS if operation in row.operations) for operation in Operation}

_IMAGE_NAMES = frozenset(
    name for row in PARAMETERS if row.holds_image for form in (False, True) for name in row.names(form)
)


def read_json(operation: Operation, body: object) -> ImagesRequest:
    """`body` as orjson reads it. Raises InvalidRequest: the first thing that is wrong, in OpenAI's words."""
    if not isinstance(body, dict):
        raise InvalidRequest("The body of the request must be a JSON object.", code="invalid_type")
    never_null = {row.names(form=False)[0] for row in _PARAMETERS_OF[operation] if row.required}
    given = {name: value for name, value in body.items() if value is not None or name in never_null}
    for name, value in given.items():
        if operation is Operation.GENERATION and name in _IMAGE_NAMES and value:
            raise _belongs_to_edits(name)
    if given.get("images") and given.get("image"):
        raise conflicting_values("image")
    return _read(operation, given, form=False)


def read_form(operation: Operation, parts: Sequence[FormPart]) -> ImagesRequest:
    """`parts` in the order of the body. Raises InvalidRequest: the first thing that is wrong, in OpenAI's words."""
    given: dict[str, list[FormPart]] = {}
    for part in parts:
        name = part.name.partition("[")[0]
        if name == "prompt" or not _is_empty(part):
            given.setdefault(name, []).append(part)
    known = {name for row in _PARAMETERS_OF[operation] for name in row.names(form=True)}
    for name, values in given.items():
        if name not in known and (name in _IMAGE_NAMES or any(not isinstance(part.value, str) for part in values)):
            raise _misplaced_image(operation, name)
    return _read(operation, given, form=True)


def _is_empty(part: FormPart) -> bool:
    """Browsers send an empty file for an input nobody used, go-openai an empty text for a field nobody set."""
    return part.value == "" if isinstance(part.value, str) else part.value.size == 0


def _misplaced_image(operation: Operation, name: str) -> InvalidRequest:
    """A picture nobody would look at is refused before it costs money."""
    if operation is Operation.GENERATION:
        return _belongs_to_edits(name)
    message = f"Unknown parameter: '{header_safe_name(name)}'. For multipart/form-data use 'image' or 'image[]'."
    return InvalidRequest(message, param=header_safe_name(name), code="unknown_parameter")


def _belongs_to_edits(name: str) -> InvalidRequest:
    message = f"Unknown parameter: '{header_safe_name(name)}'. To edit pictures, use /v1/images/edits."
    return InvalidRequest(message, param=header_safe_name(name), code="unknown_parameter")


def _read(operation: Operation, given: Mapping[str, Any], *, form: bool) -> ImagesRequest:
    values: dict[str, Any] = {}
    used = set()
    for row in _PARAMETERS_OF[operation]:
        name = next((name for name in row.names(form) if name in given), None)
        if name is not None:
            used.add(name)
            values[row.name] = (row.type.from_form if form else row.type.from_json)(name, given[name])
        elif row.required:
            raise missing_parameter(row.names(form)[0])
    said = {name: value for name, value in values.items() if value is not None}
    _check_combinations(said)
    ignored = ignored_parameters(PARAMETERS, said, (name for name in given if name not in used))
    return ImagesRequest(operation=operation, **_normalize(said), ignored=ignored)


def _check_combinations(said: Mapping[str, Any]) -> None:
    if said.get("stream") and said.get("n", 1) > 1:
        raise UserError("Streaming is only supported with n=1.", param="input", code="unsupported_parameter")
    if said.get("background") == "transparent" and said.get("output_format") == "jpeg":
        message = "Transparent background is not supported for JPEG output format"
        raise UserError(message, param="background", code="invalid_value")


def _normalize(said: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: text for key, text in said.get("metadata", {}).items() if not is_reserved_metadata(key)}
    return {**said, "metadata": metadata, "user": said.get("safety_identifier") or said.get("user")}


def schema(operation: Operation, *, form: bool) -> Schema:
    """The body as JSON Schema, for the OpenAPI document. More is accepted than it says, and named in `ignored`."""
    rows = {row.names(form)[0]: row for row in _PARAMETERS_OF[operation]}
    return {
        "type": "object",
        "properties": {name: row.schema(form) for name, row in rows.items()},
        "required": [name for name, row in rows.items() if row.required],
    }
