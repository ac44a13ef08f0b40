"""Describe requests of the Images API: every parameter, with its type and where its value goes."""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, field, replace
from typing import Annotated, Any, get_type_hints

from app.protocol.input_images import ImageListParam, ImageParam, InputImage
from app.protocol.parameters import (
    ONLY_EDIT,
    ONLY_GENERATION,
    BooleanParam,
    ChoiceParam,
    Destination,
    IntegerParam,
    ObjectParam,
    Operation,
    Parameter,
    Schema,
    StringMapParam,
    TextParam,
)
from app.protocol.size_fit import SizeMode
from app.protocol.size_wishes import RatioParam, SizeParam, TierParam
from app.protocol.sizes import Size
from app.protocol.values import value_class


@value_class
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

    _: KW_ONLY
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
            ChoiceParam(("png", "jpeg", "webp"), aliases={"jpg": "jpeg"}),
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
            "An address that gets a webhook when a task has ended.",
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
        """Whether all images are links, which this server need not read. A mask has to be read."""
        return self.mask is None and all(image.is_link for image in self.all_images if image is not None)

    @property
    def is_size_native(self) -> bool:
        """Whether the image is wanted in the size in which the upstream makes it. A legacy size is not."""
        return self.size is None or (self.size_mode is SizeMode.NATIVE and self.size.upstream_size == self.size)

    @property
    def upstream_size_text(self) -> str | None:
        """The size that is requested upstream, as `WIDTHxHEIGHT`; None leaves it to the model."""
        return None if self.size is None else str(self.size.upstream_size)

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


def schema(operation: Operation, *, form: bool) -> Schema:
    """Return the JSON schema of the body for OpenAPI. Other parameters are accepted too, and named in `ignored`."""
    parameters = {parameter.names(form)[0]: parameter for parameter in PARAMETERS_OF[operation]}
    return {
        "type": "object",
        "properties": {name: parameter.schema(form) for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if parameter.required],
    }
