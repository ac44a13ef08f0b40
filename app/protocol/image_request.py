"""Read requests of the Images API: every parameter, and the request that a JSON body or a form makes of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Annotated, Any, get_type_hints

from app.errors import InvalidRequest, UserError
from app.protocol.input_images import ImageListParam, ImageParam, InputImage
from app.protocol.misplaced_pictures import FREE_VALUES, place_form_pictures, place_json_pictures
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
    ParameterType,
    Schema,
    StringMapParam,
    TextParam,
    is_lowered,
)
from app.protocol.size_fit import SizeMode
from app.protocol.size_wishes import RatioParam, SizeParam, TierParam, resolve_size
from app.protocol.sizes import Size
from app.protocol.validation_errors import conflicting_values, header_safe_name, missing_parameter

__all__ = ["PARAMETERS", "FormPart", "ImagesRequest", "InputImage", "Operation", "read_form", "read_json", "schema"]

#: Names in the header `x-limner-ignored`.
_MAX_IGNORED = 32

#: Values of unknown parameters, and characters in them, that are searched for the client's own links.
_MAX_UNREAD_VALUES, _MAX_UNREAD = 1000, 64 * 1024

#: Where values go that have no effect, or may have none.
_MAY_HAVE_NO_EFFECT = (Destination.NONE, Destination.DIALECT)

#: Entries of the client's metadata that would override those of Limner.
_RESERVED_METADATA = {"size", "quality"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesRequest:
    """One checked request. Its fields stand in the order of the checks; None leaves the choice to the model.

    Attributes:
        user: The safety identifier if the client sent one, else the client's `user`.
        ignored: Names of parameters without effect, safe in a header.
        unread: Texts in parameters that Limner does not know. Links in them are the client's own.
        size: What is asked for in the end, whichever parameters said so.
        from_page: A script of a web page asks, which can read only links whose host allows it.
        asked_size: What the client said of the size, safe in a header.
        size_mode: Whether the image gets exactly the size that the client asked for, and how.
    """

    operation: Operation
    model: Annotated[
        str | None,
        Parameter(
            TextParam(256, one_line=True),
            Destination.LOCAL,
            "Any name. Decides the default of `response_format`; the upstream is sent the name of its own model.",
            examples=("gpt-image-2",),
        ),
    ] = None
    prompt: Annotated[
        str,
        Parameter(
            TextParam(32_000, minimum=1),
            Destination.MESSAGE,
            "What to generate, or what to change.",
            required=True,
            examples=("A lighthouse in a storm, oil on canvas",),
        ),
    ]
    images: Annotated[
        tuple[InputImage, ...],
        Parameter(
            ImageListParam(16),
            Destination.MESSAGE,
            "The images to edit. In a form: `image`, repeated, `image[]` or `image[0]`.",
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
            "A PNG as large as the first image; where it is transparent, the image is edited.",
            ONLY_EDIT,
        ),
    ] = None
    n: Annotated[
        int,
        Parameter(
            IntegerParam(1, 10, unset="0"),
            Destination.LOCAL,
            "How many images; one upstream request each.",
            examples=(2,),
        ),
    ] = 1
    quality: Annotated[
        str | None,
        Parameter(
            ChoiceParam(
                ("low", "medium", "high", "auto"),
                default="auto",
                aliases={"standard": "medium", "hd": "high", "xhigh": "high", "max": "high"},
                lowered=frozenset({"xhigh", "max"}),
            ),
            Destination.METADATA,
            "How much effort goes into the image.",
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
            "The size of the image, or its shape.",
            examples=("1536x1024",),
        ),
    ] = None
    image_size: Annotated[
        str | None,
        Parameter(
            SizeParam(),
            Destination.PREFIX,
            "The same under the name of other services.",
            examples=("2K",),
            json_names=("image_size", "imageSize"),
            form_names=("image_size", "imageSize"),
        ),
    ] = None
    aspect_ratio: Annotated[
        str | None,
        Parameter(
            RatioParam(),
            Destination.PREFIX,
            "The shape of the image; becomes a size.",
            examples=("16:9",),
            json_names=("aspect_ratio", "aspectRatio"),
            form_names=("aspect_ratio", "aspectRatio"),
        ),
    ] = None
    resolution: Annotated[
        str | None,
        Parameter(TierParam(), Destination.PREFIX, "The tier of an `aspect_ratio`.", examples=("2K",)),
    ] = None
    width: Annotated[
        int | None,
        Parameter(IntegerParam(1, 99_999), Destination.PREFIX, "In pixels, with `height`.", examples=(1536,)),
    ] = None
    height: Annotated[
        int | None,
        Parameter(IntegerParam(1, 99_999), Destination.PREFIX, "In pixels, with `width`.", examples=(1024,)),
    ] = None
    background: Annotated[
        str | None,
        Parameter(
            ChoiceParam(("transparent", "opaque", "auto"), default="auto"),
            Destination.DIALECT,
            "Many upstreams have no such choice: say it in the prompt, too.",
        ),
    ] = None
    output_format: Annotated[
        str | None,
        Parameter(
            ChoiceParam(("png", "jpeg", "webp")),
            Destination.LOCAL,
            "Converted if the upstream's image has another format.",
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
        Parameter(IntegerParam(0, 3), Destination.LOCAL, "How many partial images a stream may have.", examples=(2,)),
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
        Parameter(TextParam(512), Destination.TOP_LEVEL, "The same, by its older name.", examples=("u-17",)),
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
            ChoiceParam(("vivid", "natural")),
            Destination.DIALECT,
            "Of dall-e-3. Most upstreams have no such choice: say it in the prompt.",
            ONLY_GENERATION,
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
        int | None, Parameter(IntegerParam(2, 16), Destination.NONE, "Of animated GIFs, which are not supported.")
    ] = None
    frame_duration_ms: Annotated[
        int | None, Parameter(IntegerParam(1, 60_000), Destination.NONE, "Of animated GIFs, which are not supported.")
    ] = None
    svg: Annotated[
        Mapping[str, Any] | None,
        Parameter(ObjectParam(), Destination.NONE, "Of vector images, which are not supported."),
    ] = None
    markup: Annotated[
        InputImage | None,
        Parameter(
            ImageParam(),
            Destination.MESSAGE,
            "Marks on a transparent image that lies over the first image. Not together with `mask`.",
            ONLY_EDIT,
        ),
    ] = None
    as_task: Annotated[
        bool,
        Parameter(
            BooleanParam(),
            Destination.LOCAL,
            "Answer with a task at once, whose result is fetched later. Not together with `stream`.",
            json_names=("async",),
            form_names=("async",),
        ),
    ] = False
    webhook_url: Annotated[
        str | None,
        Parameter(
            TextParam(2048, one_line=True),
            Destination.LOCAL,
            "Is told when a task has ended.",
            examples=("https://a.example/b",),
        ),
    ] = None
    ignored: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    asked_size: str = "auto"
    from_page: bool = False
    size_mode: SizeMode = SizeMode.NATIVE

    @property
    def all_images(self) -> tuple[InputImage | None, ...]:
        """The images to edit, then mask and markup, None where there is none."""
        return (*self.images, self.mask, self.markup)

    @property
    def has_only_links(self) -> bool:
        """Whether all images are links, which need no look of ours. A mask does."""
        return self.mask is None and all(image.is_link for image in self.all_images if image is not None)

    @property
    def size_text(self) -> str:
        """The requested size as the API writes it: `WIDTHxHEIGHT` or `auto`."""
        return "auto" if self.size is None else str(self.size)


def _annotated_fields() -> Iterator[Parameter]:
    for name, hint in get_type_hints(ImagesRequest, include_extras=True).items():
        for parameter in getattr(hint, "__metadata__", ()):
            yield replace(parameter, name=name)


#: All parameters, in the order of the checks.
PARAMETERS = tuple(_annotated_fields())

PARAMETERS_OF = {
    operation: tuple(parameter for parameter in PARAMETERS if operation in parameter.operations)
    for operation in Operation
}

#: The types of the same parameters where images of any size can be made, by name.
_EXACT_TYPES: Mapping[str, ParameterType] = {
    "size": SizeParam(is_exact=True),
    "image_size": SizeParam(is_exact=True),
    "resolution": TierParam(is_exact=True),
}


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """The parameters of one operation, with what is looked up for each request in one kind of body.

    Attributes:
        places: The place in `rows` of each name under which clients send a parameter.
        required: The places of those that every request needs; `never_null`: their names, elsewhere null means missing.
        checked: The names whose values cannot hold a picture that belongs elsewhere.
    """

    rows: tuple[Parameter, ...]
    names: tuple[tuple[str, ...], ...]
    places: Mapping[str, int]
    required: frozenset[int]
    never_null: frozenset[str]
    checked: frozenset[str]


def parameter_table(rows: tuple[Parameter, ...], *, form: bool) -> ParameterTable:
    names = tuple(row.names(form) for row in rows)
    places = {name: place for place, each in enumerate(names) for name in each}
    required = frozenset(place for place, row in enumerate(rows) if row.required)
    never_null = frozenset(names[place][0] for place in required)
    return ParameterTable(rows, names, places, required, never_null, frozenset(places.keys() - FREE_VALUES))


#: By operation, and whether the body is a form.
TABLES = {
    (operation, form): parameter_table(PARAMETERS_OF[operation], form=form)
    for operation in Operation
    for form in (False, True)
}

_IMAGE_NAMES = {
    name
    for parameter in PARAMETERS
    if parameter.holds_image
    for form in (False, True)
    for name in parameter.names(form)
}


def read_json(operation: Operation, body: object, mode: SizeMode = SizeMode.NATIVE) -> ImagesRequest:
    """Read the request from a body that orjson has parsed. `mode`: which sizes can be made.

    Raises:
        InvalidRequest: A parameter is wrong; the first one is named, in OpenAI's wording.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("The body of the request must be a JSON object.", code="invalid_type")
    table = TABLES[operation, False]
    given = {name: value for name, value in body.items() if value is not None or name in table.never_null}
    if not given.keys() <= table.checked:
        given = place_json_pictures(operation, given, table.places.keys(), _IMAGE_NAMES)
    if given.get("images") and given.get("image"):
        raise conflicting_values("image")
    return _read(operation, given, mode, form=False)


def read_form(operation: Operation, parts: Sequence[FormPart], mode: SizeMode = SizeMode.NATIVE) -> ImagesRequest:
    """Read the request from the parts of a form, in the order of the body. `mode`: which sizes can be made.

    Raises:
        InvalidRequest: A parameter is wrong; the first one is named, in OpenAI's wording.
    """
    given: dict[str, list[FormPart]] = {}
    for part in parts:
        name = part.name.partition("[")[0]
        if name == "prompt" or not _is_empty(part):
            given.setdefault(name, []).append(part)
    given = place_form_pictures(operation, given, TABLES[operation, True].places.keys(), _IMAGE_NAMES)
    return _read(operation, given, mode, form=True)


def _is_empty(part: FormPart) -> bool:
    # Browsers send an empty file for an unused file input, go-openai an empty text for an unset field.
    return part.value == "" if isinstance(part.value, str) else part.value.size == 0


def _read(operation: Operation, given: Mapping[str, Any], mode: SizeMode, *, form: bool) -> ImagesRequest:
    exact_types = {} if mode is SizeMode.NATIVE else _EXACT_TYPES
    values: dict[str, Any] = {}
    lowered: list[str] = []
    used = set()
    table = TABLES[operation, form]
    # In the order of the table: the first wrong parameter there is named, however the body is ordered.
    for place in sorted({table.places[name] for name in given if name in table.places} | table.required):
        parameter, names = table.rows[place], table.names[place]
        name = names[0] if names[0] in given else next((name for name in names if name in given), None)
        if name is None:
            raise missing_parameter(names[0])
        used.add(name)
        kind = exact_types.get(parameter.name, parameter.type)
        value = (kind.from_form if form else kind.from_json)(name, given[name])
        if value is not None:
            values[parameter.name] = value
        if is_lowered(parameter.type, given[name]):
            lowered.append(name)
    _check_combinations(values)
    unknown = [name for name in given if name not in used]
    ignored = ignored_parameters(table.rows, values, (*lowered, *unknown))
    unread = tuple(_texts_in([given[name] for name in unknown]))
    fields = _normalize(values) | resolve_size(operation, values, mode)
    return ImagesRequest(operation=operation, **fields, ignored=ignored, unread=unread)


def _texts_in(values: list[Any]) -> Iterator[str]:
    """Yield the texts in values of any depth that may have links, as far as the limits reach."""
    remaining = _MAX_UNREAD
    pending = values[:_MAX_UNREAD_VALUES]
    for value in pending:
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            pending.extend(islice(inner, _MAX_UNREAD_VALUES - len(pending)))
        text = value.value if isinstance(value, FormPart) else value
        if isinstance(text, str) and len(text) <= remaining and ("/" in text or "%" in text):
            remaining -= len(text)
            yield text


def _check_combinations(values: Mapping[str, Any]) -> None:
    if "markup" in values and "mask" in values:
        message = "Invalid parameter: 'markup'. It cannot be used together with 'mask'."
        raise UserError(message, param="markup", code="invalid_value")
    if values.get("stream") and values.get("n", 1) > 1:
        raise UserError("Streaming is only supported with n=1.", param="input", code="unsupported_parameter")
    if values.get("background") == "transparent" and values.get("output_format") == "jpeg":
        message = "Transparent background is not supported for JPEG output format"
        raise UserError(message, param="background", code="invalid_value")


def _normalize(values: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {key: text for key, text in values.get("metadata", {}).items() if not is_reserved_metadata(key)}
    return {**values, "metadata": metadata, "user": values.get("safety_identifier") or values.get("user")}


def is_reserved_metadata(key: str) -> bool:
    return key.strip().lower() in _RESERVED_METADATA


def ignored_parameters(
    parameters: Iterable[Parameter], values: Mapping[str, Any], unread: Iterable[str]
) -> tuple[str, ...]:
    """Return the names of parameters that the client sent and that have no effect, made safe for a header.

    `values` are the checked values by the names of `parameters`; `unread` are all other names in the body. No more of
    them are read than fit into the header, since a body may have millions of keys.
    """
    names: dict[str, None] = {}
    for name in chain(_ignored_names(parameters, values), unread):
        if len(names) == _MAX_IGNORED:
            break
        names[header_safe_name(name)] = None
    return tuple(names)


def _ignored_names(parameters: Iterable[Parameter], values: Mapping[str, Any]) -> Iterator[str]:
    for parameter in parameters:
        if parameter.name in values and parameter.destination in _MAY_HAVE_NO_EFFECT:
            yield parameter.name
    if values.get("output_compression", 100) != 100 and values.get("output_format", "png") == "png":
        yield "output_compression"
    if values.get("partial_images") and not values.get("stream"):
        yield "partial_images"
    for key in filter(is_reserved_metadata, values.get("metadata", ())):
        yield f"metadata.{key}"


def schema(operation: Operation, *, form: bool) -> Schema:
    """Return the JSON schema of the body for OpenAPI. Other parameters are accepted too, and named in `ignored`."""
    parameters = {parameter.names(form)[0]: parameter for parameter in PARAMETERS_OF[operation]}
    return {
        "type": "object",
        "properties": {name: parameter.schema(form) for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if parameter.required],
    }
