"""The generated schemas: no drift, and the shape that their standards ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from adgovernor.contracts import topics
from adgovernor.contracts.export import asyncapi, documents, export

ROOT = Path(__file__).parents[3]
GENERATED = ROOT / "schemas" / "generated"
GOLDEN = ROOT / "schemas" / "golden" / "v1"


def _reference(prefix: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["$ref"],
        "properties": {"$ref": {"type": "string", "pattern": f"^#/{prefix}"}},
        "additionalProperties": False,
    }


def _map_of(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "minProperties": 1, "additionalProperties": item}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


TEXT = {"type": "string", "minLength": 1}
NAME = {"type": "string", "pattern": r"^[\w.\-]+$"}
# The payload's dialect is AsyncAPI's default one: draft 7 with a discriminator that is a plain word.
SCHEMA = {"allOf": [{"$ref": "http://json-schema.org/draft-07/schema#"}]}
BINDING = _object({"bindingVersion": {"const": "0.5.0"}}, key=SCHEMA)
ASYNCAPI_3 = _object(
    {
        "asyncapi": {"const": "3.0.0"},
        "info": _object({"title": TEXT, "version": TEXT}, description=TEXT, license=_object({"name": TEXT})),
        "channels": _map_of(
            _object(
                {"address": TEXT, "messages": _map_of(_reference("components/messages/"))},
                title=TEXT,
                description=TEXT,
                parameters=_map_of(_object({}, description=TEXT)),
                bindings=_object({"kafka": BINDING}),
            )
        ),
        "operations": _map_of(
            _object(
                {
                    "action": {"enum": ["send", "receive"]},
                    "channel": _reference("channels/"),
                    "messages": {
                        "type": "array",
                        "minItems": 1,
                        "items": _reference("channels/.+/messages/"),
                    },
                }
            )
        ),
        "components": _object(
            {
                "messages": _map_of(
                    _object(
                        {"name": NAME, "payload": SCHEMA, "headers": SCHEMA},
                        title=TEXT,
                        contentType=TEXT,
                        bindings=_object({"kafka": BINDING}),
                    )
                ),
                "schemas": _map_of(SCHEMA),
            }
        ),
    },
    id={"type": "string", "pattern": "^urn:"},
    defaultContentType=TEXT,
)


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in _references(value)]
    if isinstance(node, list):
        return [ref for item in node for ref in _references(item)]
    return []


def test_checked_in_schemas_are_those_of_the_models() -> None:
    """The files under schemas/generated are what the models give, neither more nor less."""
    fresh = documents()
    present = {str(path.relative_to(GENERATED)) for path in GENERATED.rglob("*.json")}
    hint = "run: adgovernor schemas export schemas/generated"
    assert present == set(fresh), hint
    for name, content in fresh.items():
        assert (GENERATED / name).read_bytes() == content, f"{name} has drifted from the models; {hint}"


def test_asyncapi_has_the_shape_of_its_standard() -> None:
    """The AsyncAPI document follows the parts of AsyncAPI 3.0.0 that it uses, and nothing else is in it."""
    jsonschema.validate(asyncapi(), ASYNCAPI_3, cls=jsonschema.Draft7Validator)


def test_every_reference_leads_somewhere() -> None:
    """No reference of the AsyncAPI document dangles, and every operation's messages are its channel's."""
    document = asyncapi()
    for reference in _references(document):
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    for operation in document["operations"].values():
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_every_public_topic_has_a_channel() -> None:
    """Each public input with its dead letters, and each public output that has a contract, is a channel whose
    direction is the workers'."""
    document = asyncapi()
    actions = {
        document["channels"][operation["channel"]["$ref"].rsplit("/", 1)[1]]["address"]: operation["action"]
        for operation in document["operations"].values()
    }
    for topic in topics.PUBLIC_INPUTS:
        assert actions["{prefix}." + topic] == "receive"
        assert actions["{prefix}." + topics.dlq(topic)] == "send"
    assert actions["{prefix}.decisions"] == actions["{prefix}.campaign-paused"] == "send"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_samples_satisfy_their_schema(path: Path) -> None:
    """Every golden sample is valid by the JSON Schema of its topic, and by AsyncAPI's schema of the same name."""
    topic = path.stem.split(".")[0]
    sample = json.loads(path.read_bytes())
    if isinstance(sample.get("slots"), int):
        pytest.skip("a bare number of slots is shorthand that the schema does not name")
    schema = json.loads(documents()[f"json-schema/{topic}.v1.json"])
    jsonschema.validate(sample, schema, cls=jsonschema.Draft202012Validator)


def test_a_wrong_sample_does_not() -> None:
    """The schema refuses what the model refuses: an amount that is text, and an unknown command."""
    schema = json.loads(documents()["json-schema/campaigns.v1.json"])
    sample = json.loads((GOLDEN / "campaigns.top-up.json").read_bytes())
    for wrong in ({"amount_micros": "5"}, {"command": "give"}, {"amount_micros": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**sample, **wrong}, schema)


def test_export_writes_every_document(tmp_path: Path) -> None:
    """Exporting makes the folder and writes each document once."""
    written = export(tmp_path / "new")
    assert {str(path.relative_to(tmp_path / "new")) for path in written} == set(documents())
    assert all(json.loads(path.read_bytes()) for path in written)
