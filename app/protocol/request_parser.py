"""Read the request for images that a JSON body or a form makes, and check it."""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any

from app.errors import InvalidRequest, UserError
from app.protocol.ignored_parameters import ignored_parameters, is_reserved_metadata
from app.protocol.image_request import PARAMETERS, PARAMETERS_OF, ImagesRequest
from app.protocol.misplaced_images import FREE_VALUES, place_form_images, place_json_images
from app.protocol.nested_sizes import lift_form_sizes, lift_sizes
from app.protocol.parameters import ChoiceParam, FormPart, Operation, Parameter, ParameterType, is_lowered
from app.protocol.size_fit import SizeMode
from app.protocol.size_wishes import SizeParam, TierParam, resolve_size
from app.protocol.validation_errors import conflicting_values, missing_parameter

#: Values of unknown parameters, and characters in them, that are searched for the client's own links.
_MAX_UNREAD_VALUES, _MAX_UNREAD = 1000, 64 * 1024

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
        row_of: The index in `rows` of each name under which clients send a parameter.
        required: The indexes of those that every request needs.
        never_null: Their names. For all others, null means that they are missing.
        checked: The names whose values cannot hold an image that belongs elsewhere.
        lowered: The choices that mean less than they say, by the indexes of their parameters.
    """

    rows: tuple[Parameter, ...]
    names: tuple[tuple[str, ...], ...]
    row_of: Mapping[str, int]
    required: frozenset[int]
    never_null: frozenset[str]
    checked: frozenset[str]
    lowered: Mapping[int, Collection[str]]


def parameter_table(rows: tuple[Parameter, ...], *, form: bool) -> ParameterTable:
    names = tuple(row.names(form) for row in rows)
    row_of = {name: index for index, each in enumerate(names) for name in each}
    required = frozenset(index for index, row in enumerate(rows) if row.required)
    never_null = frozenset(names[index][0] for index in required)
    checked = frozenset(row_of.keys() - FREE_VALUES)
    lowered = {
        index: row.type.lowered
        for index, row in enumerate(rows)
        if isinstance(row.type, ChoiceParam) and row.type.lowered
    }
    return ParameterTable(rows, names, row_of, required, never_null, checked, lowered)


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
        given = place_json_images(operation, lift_sizes(given), table.row_of.keys(), _IMAGE_NAMES)
    if given.get("images") and given.get("image"):
        raise conflicting_values("image")
    return _read(operation, given, mode, form=False)


def read_form(operation: Operation, parts: Sequence[FormPart], mode: SizeMode = SizeMode.NATIVE) -> ImagesRequest:
    """Read the request from the parts of a form, in the order of the body. `mode`: which sizes can be made.

    Raises:
        InvalidRequest: A parameter is wrong; the first one is named, in OpenAI's wording.
    """
    given: dict[str, list[FormPart]] = {}
    empty = set()
    for part in lift_form_sizes(parts):
        name = part.name.partition("[")[0]
        if name == "prompt" or not _is_empty(part):
            given.setdefault(name, []).append(part)
        elif not isinstance(part.value, str):
            empty.add(name)
    given = place_form_images(operation, given, TABLES[operation, True].row_of.keys(), _IMAGE_NAMES)
    return _read(operation, given, mode, form=True, empty_files=empty)


def _is_empty(part: FormPart) -> bool:
    # Browsers send an empty file for an unused file input, go-openai an empty text for an unset field.
    return part.value == "" if isinstance(part.value, str) else part.value.size == 0


def _read(
    operation: Operation, given: Mapping[str, Any], mode: SizeMode, *, form: bool, empty_files: Set[str] = frozenset()
) -> ImagesRequest:
    exact_types = {} if mode is SizeMode.NATIVE else _EXACT_TYPES
    values: dict[str, Any] = {}
    lowered: list[str] = []
    used = set()
    table = TABLES[operation, form]
    # In the order of the table: the first wrong parameter there is named, however the body is ordered.
    for index in sorted({table.row_of[name] for name in given if name in table.row_of} | table.required):
        parameter, names = table.rows[index], table.names[index]
        name = names[0] if names[0] in given else next((name for name in names if name in given), None)
        if name is None:
            raise missing_parameter(names[0], is_empty_file=not empty_files.isdisjoint(names))
        used.add(name)
        kind = exact_types.get(parameter.name, parameter.type)
        value = (kind.from_form if form else kind.from_json)(name, given[name])
        if value is not None:
            values[parameter.name] = value
        if index in table.lowered and is_lowered(table.lowered[index], given[name]):
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
