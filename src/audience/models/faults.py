"""What is wrong with parameters that somebody gave, in our words."""

from pydantic import ValidationError

from audience.errors import Problem

PLAIN = {
    "extra_forbidden": "not permitted: there is no such field",
    "missing": "is missing",
    "string_type": "should be a text",
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "dict_type": "should be an object",
    "model_type": "should be an object",
    "model_attributes_type": "should be an object",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
}


def problems_of(error: ValidationError, where: str = "", joint: str = " ") -> tuple[Problem, ...]:
    """pydantic's findings as ours: `where` and the path of the field, and the reason in plain words."""
    found = []
    for item in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in item["loc"])
        reason = item["msg"].removeprefix("Value error, ")
        if item["type"] == "literal_error":
            reason = f"should be {item['ctx']['expected']}"
        found.append(Problem(joint.join(filter(None, (where, path))), PLAIN.get(item["type"], reason)))
    return tuple(found)
