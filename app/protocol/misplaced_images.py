"""Put images under unknown names where they belong, or refuse them before the request costs money."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from app.errors import InvalidRequest
from app.protocol.held_images import find_held_images, is_input_name, name_words, parse_text
from app.protocol.parameters import FormPart, Operation
from app.protocol.validation_errors import header_safe_name

#: Parameters with free values. Those in `metadata` go upstream, so that a link in it is not lost.
FREE_VALUES = frozenset({"metadata", "svg"})


def place_json_images(operation: Operation, given: dict[str, Any], known: Set[str], images: Set[str]) -> dict[str, Any]:
    """Return the parameters of a JSON body with all images under known names.

    Args:
        operation: What the endpoint does.
        given: The values of the body by name.
        known: The names of this operation.
        images: The names that hold images in any operation.

    Raises:
        InvalidRequest: An image stands where it is not clear what it is meant for.
    """
    held = {name: header_safe_name(name) for name, value in given.items() if name in images - known and value}
    held |= _find({name: value for name, value in given.items() if name not in held}, known)
    if not _are_inputs(operation, given, held):
        _refuse(operation, held, form=False)
        return given
    items = [item for name in held for item in _items(given[name])]
    return {**{name: value for name, value in given.items() if name not in held}, "images": items}


def place_form_images(
    operation: Operation, given: dict[str, list[FormPart]], known: Set[str], images: Set[str]
) -> dict[str, list[FormPart]]:
    """Do the same for the parts of a form. Any file counts as an image."""
    files = {name for name, parts in given.items() if any(not isinstance(part.value, str) for part in parts)}
    held = {name: header_safe_name(name) for name in given if name in (files | images) - known}
    held |= _find({name: _value(parts) for name, parts in given.items() if name not in held}, known)
    if not _are_inputs(operation, given, held):
        _refuse(operation, held, form=True)
        return given
    parts = [replace(part, name="image") for name in held for part in given[name]]
    return {**{name: value for name, value in given.items() if name not in held}, "image": parts}


def _find(given: Mapping[str, Any], known: Set[str]) -> dict[str, str]:
    searched = {name: value for name, value in given.items() if name not in known or name in FREE_VALUES}
    return find_held_images(searched, sure_only=frozenset({"metadata"}))


def _are_inputs(operation: Operation, given: Mapping[str, Any], held: Mapping[str, str]) -> bool:
    """Return whether the images can only be the images to edit: there are no others, and their name says so."""
    is_given = any(given.get(name) for name in ("images", "image") if name not in held)
    if operation is not Operation.EDIT or not held or is_given:
        return False
    return all(is_input_name(name) for name in held) and len({name_words(name) for name in held}) == 1


def _value(parts: Sequence[FormPart]) -> object:
    return parts[0].value if len(parts) == 1 else [part.value for part in parts]


def _items(value: object) -> Sequence[object]:
    parsed = parse_text(value) if isinstance(value, str) else value
    return parsed if isinstance(parsed, list) else [value if parsed is None else parsed]


def _refuse(operation: Operation, held: Mapping[str, str], *, form: bool) -> None:
    """Raise `InvalidRequest` for the first image, if there is one."""
    if not held:
        return
    name, path = next(iter(held.items()))
    if operation is Operation.GENERATION:
        field = "image" if form else "images"
        remedy = f"To edit images, use /v1/images/edits with '{field}'."
    elif "mask" in name_words(name):
        remedy = "For a mask on /v1/images/edits, use 'mask'."
    elif form:
        remedy = "For multipart/form-data use 'image' or 'image[]'."
    else:
        remedy = "For application/json on /v1/images/edits, use 'images' (array)."
    raise InvalidRequest(f"Unknown parameter: '{path}'. {remedy}", param=path, code="unknown_parameter")
