"""A schema is checked before the model is asked, and nothing it names is fetched."""

import pytest

from worker.errors import InvalidTask
from worker.tasks.schemas import Schema


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "wibble"}, r"`schema\.type` is not valid JSON Schema: 'wibble'"),
        ({"properties": {"a": {"minimum": "x"}}}, r"`schema\.properties\.a\.minimum`"),
        ({"properties": {"a": {"pattern": "("}}}, r"`schema\.properties\.a\.pattern`.*regex"),
        ({"required": "a"}, r"`schema\.required`"),
        ({"$schema": "https://example.com/mine"}, r"`\$schema` 'https://example.com/mine' is not known"),
        ({"$ref": "https://example.com/a.json"}, "points outside the schema; nothing is fetched"),
        ({"properties": {"a": {"$ref": "other.json#/a"}}}, r"'other.json#/a' points outside"),
        ({"items": {"$ref": "file:///etc/passwd"}}, "points outside"),
        ({"allOf": [{"$dynamicRef": "http://127.0.0.1/x"}]}, "points outside"),
        ({"$defs": {"x": {"not": {"$ref": "//host/x"}}}}, "points outside"),
        ({"$ref": "#/$defs/missing"}, "leads nowhere"),
        ({"$ref": "#nowhere"}, "leads nowhere"),
        (nested(100), "nested more than 64 levels"),
        ({"enum": ["x" * 70_000]}, r"has 70,013 bytes, the limit is 65,536"),
        ({"maximum": float("inf")}, "NaN or Infinity"),
    ],
)
def test_a_wrong_schema_is_refused_with_its_place(schema, reason):
    with pytest.raises(InvalidTask, match=reason):
        Schema.read(schema)


def test_a_reference_hidden_from_the_check_is_not_fetched_either():
    schema = Schema.read({"$ref": "#/unknown/a", "unknown": {"a": {"$ref": "http://127.0.0.1:1/x.json"}}})
    with pytest.raises(InvalidTask, match="leads nowhere"):
        schema.problem({})


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}]
)
def test_a_schema_that_refers_to_itself_without_end_is_refused(schema):
    with pytest.raises(InvalidTask, match="refers to itself without end"):
        Schema.read(schema).problem({})


def test_a_property_named_ref_is_a_property():
    schema = Schema.read({"properties": {"$ref": {"type": "string"}}, "enum": [{"$ref": "http://x/"}]})
    assert schema.problem({"$ref": "http://x/"}) is None


def test_recursion_that_ends_with_the_data_is_fine():
    tree = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "additionalProperties": False,
    }
    schema = Schema.read(tree)
    deep: dict = {}
    for _ in range(25):
        deep = {"children": [deep]}
    assert schema.problem(deep) is None
    assert "`$.children[0]`" in (schema.problem({"children": [{"x": 1}]}) or "")


def test_older_drafts_are_validated_by_their_own_rules():
    schema = Schema.read(
        {"$schema": "http://json-schema.org/draft-04/schema", "maximum": 3, "exclusiveMaximum": True}
    )
    assert schema.problem(3) is not None
    assert schema.problem(2) is None


@pytest.mark.parametrize(
    ("format_", "bad"),
    [
        ("date", "yesterday"),
        ("email", "nobody"),
        ("uri", "no uri"),
        ("uuid", "1"),
        ("date-time", "2024-01-01"),
    ],
)
def test_formats_are_checked(format_, bad):
    assert f"is not a '{format_}'" in (Schema.read({"format": format_}).problem(bad) or "")


def test_a_long_value_does_not_make_a_long_reason():
    assert len(Schema.read({"type": "integer"}).problem("x" * 10_000) or "") < 400
