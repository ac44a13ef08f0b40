"""The names, operations and schema of a parameter."""

from app.protocol.input_images import ImageListParam, ImageParam
from app.protocol.parameters import BOTH, BooleanParam, Destination, Operation, Parameter, TextParam

PLAIN = Parameter(BooleanParam(), Destination.LOCAL, "Whether.", name="stream")
ALIASED = Parameter(
    ImageListParam(16),
    Destination.MESSAGE,
    "Which.",
    required=True,
    json_names=("images", "image"),
    form_names=("image",),
)


def test_a_parameter_has_its_own_name_unless_others_are_given() -> None:
    assert PLAIN.names(form=False) == PLAIN.names(form=True) == ("stream",)
    assert ALIASED.names(form=False) == ("images", "image")
    assert ALIASED.names(form=True) == ("image",)


def test_both_operations_have_a_parameter_unless_it_says_otherwise() -> None:
    assert PLAIN.operations == BOTH == {Operation.GENERATION, Operation.EDIT}


def test_parameters_that_hold_images_say_so() -> None:
    assert ALIASED.holds_image
    assert Parameter(ImageParam(), Destination.MESSAGE, "").holds_image
    assert not PLAIN.holds_image


def test_optional_parameters_may_be_null_in_json_only() -> None:
    assert PLAIN.schema(form=False) == {"anyOf": [{"type": "boolean"}, {"type": "null"}], "description": "Whether."}
    assert PLAIN.schema(form=True) == {"type": "boolean", "description": "Whether."}
    assert ALIASED.schema(form=False)["type"] == "array"


def test_examples_are_shown() -> None:
    prompt = Parameter(TextParam(9), Destination.MESSAGE, "What.", required=True, examples=("a cat",))
    assert prompt.schema(form=False)["examples"] == ["a cat"]
