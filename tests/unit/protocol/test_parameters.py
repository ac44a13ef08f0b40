from app.protocol.input_images import OnePicture, PictureList
from app.protocol.parameters import BOTH, Boolean, Goes, Operation, Parameter, Text

PLAIN = Parameter(Boolean(), Goes.HERE, "Whether.", name="stream")
ALIASED = Parameter(
    PictureList(16), Goes.MESSAGE, "Which.", required=True, in_json=("images", "image"), in_form=("image",)
)


def test_a_parameter_has_its_own_name_where_no_other_is_given() -> None:
    assert PLAIN.names(form=False) == PLAIN.names(form=True) == ("stream",)
    assert ALIASED.names(form=False) == ("images", "image")
    assert ALIASED.names(form=True) == ("image",)


def test_both_operations_have_a_parameter_unless_it_says_otherwise() -> None:
    assert PLAIN.operations == BOTH == {Operation.GENERATION, Operation.EDIT}


def test_pictures_are_known_as_such() -> None:
    assert ALIASED.is_picture
    assert Parameter(OnePicture(), Goes.MESSAGE, "").is_picture
    assert not PLAIN.is_picture


def test_optional_parameters_may_be_null_in_json_only() -> None:
    assert PLAIN.schema(form=False) == {"anyOf": [{"type": "boolean"}, {"type": "null"}], "description": "Whether."}
    assert PLAIN.schema(form=True) == {"type": "boolean", "description": "Whether."}
    assert ALIASED.schema(form=False)["type"] == "array"


def test_examples_are_shown() -> None:
    prompt = Parameter(Text(9), Goes.MESSAGE, "What.", required=True, examples=("a cat",))
    assert prompt.schema(form=False)["examples"] == ["a cat"]
