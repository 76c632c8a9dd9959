"""JSON Schemas and the AsyncAPI 3.0 document of the public topics, generated from the models.

What is generated is checked in under ``schemas/generated``; a test fails where it differs from the models. Write it
again with ``adgovernor schemas export schemas/generated``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from adgovernor.contracts import topics
from adgovernor.contracts.catalogue import CATALOGUE, TopicContract
from adgovernor.contracts.ledger import Block

VERSION: Final = 1
"""Version of the contracts; part of every event's CloudEvents type. It rises when an old reader could no longer
read a new event."""

_REF: Final = "#/components/schemas/{model}"
_DIALECT: Final = GenerateJsonSchema.schema_dialect
_KAFKA_BINDING: Final = "0.5.0"
_LEDGER_BLOCK: Final = "ledger-block"
_DEAD_LETTER: Final = "DeadLetter"


def documents() -> dict[str, bytes]:
    """All generated files: their path below the folder, and their bytes."""
    files = {
        f"json-schema/{topic}.v{VERSION}.json": _json_schema(topic, contract.adapter, contract.title)
        for topic, contract in CATALOGUE.items()
    }
    block = TypeAdapter(Block)
    files[f"json-schema/{_LEDGER_BLOCK}.v{VERSION}.json"] = _json_schema(_LEDGER_BLOCK, block, "ledger block")
    files["asyncapi.json"] = _bytes(asyncapi())
    return files


def export(folder: Path) -> list[Path]:
    """Writes all generated files below ``folder``; the paths written."""
    written = []
    for name, content in documents().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(path)
    return written


def _bytes(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _json_schema(name: str, adapter: TypeAdapter[Any], title: str) -> bytes:
    schema = adapter.json_schema()
    return _bytes(
        {
            "$schema": _DIALECT,
            "$id": f"urn:adgovernor:{name}:v{VERSION}",
            "title": schema.pop("title", title),
            **schema,
        }
    )


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0.0 document of the public topics, from the view of the workers: they receive the inputs and
    send the outputs."""
    rows = list(CATALOGUE.values())
    refs, definitions = TypeAdapter.json_schemas(
        [(row.topic, "validation", row.adapter) for row in rows], ref_template=_REF
    )
    schemas: dict[str, Any] = dict(definitions.get("$defs", {}))
    payloads: dict[str, Any] = {}
    for row in rows:
        schema = refs[row.topic, "validation"]
        if "$ref" not in schema:
            # A choice of models has no name of its own.
            name = _pascal(row.topic) + "Payload"
            schemas[name] = {"title": row.title, **schema}
            schema = {"$ref": _REF.format(model=name)}
        payloads[row.topic] = schema
    letters = [topics.dlq(topic) for topic in topics.PUBLIC_INPUTS]
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:adgovernor:events:v{VERSION}",
        "info": {
            "title": "adgovernor",
            "version": f"{VERSION}.0.0",
            "description": (
                "Frequency caps, budgets, pacing and ad pods as a stream processor. Amounts of money are whole "
                "micro-units of the named currency, times are milliseconds since 1970-01-01 UTC. Events of the "
                "output topics carry `dn`, contiguous from 1 in each partition: take last + 1, ignore the rest. "
                "Events of `ads` carry none: ignore what repeats by decision id and slot."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            **{_camel(row.topic): _channel(row.topic, _pascal(row.topic), row.title) for row in rows},
            **{
                _camel(topic): _channel(topic, _DEAD_LETTER, "input that could not be used")
                for topic in letters
            },
        },
        "operations": {
            **{
                _camel(
                    ("receive-" if row.topic in topics.PUBLIC_INPUTS else "send-") + row.topic
                ): _operation(row.topic, _pascal(row.topic))
                for row in rows
            },
            **{_camel("send-" + topic): _operation(topic, _DEAD_LETTER) for topic in letters},
        },
        "components": {
            "messages": {
                **{_pascal(row.topic): _message(row, payloads[row.topic]) for row in rows},
                _DEAD_LETTER: _dead_letter(),
            },
            "schemas": {name: _plain(schema) for name, schema in sorted(schemas.items())},
        },
    }


def _camel(words: str) -> str:
    first, *rest = words.replace(".", "-").split("-")
    return first + "".join(word.capitalize() for word in rest)


def _pascal(words: str) -> str:
    return "".join(word.capitalize() for word in words.replace(".", "-").replace(" ", "-").split("-"))


def _plain(schema: Any) -> Any:
    """The schema without OpenAPI's discriminator object: AsyncAPI's is a plain word with another meaning."""
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if key != "discriminator"}
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    return schema


def _channel(topic: str, message: str, title: str) -> dict[str, Any]:
    return {
        "address": "{prefix}." + topic,
        "title": topic,
        "description": f"One {title} a message.",
        "parameters": {
            "prefix": {"description": "The deployment's prefix. Without one the address has no dot either."}
        },
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {"kafka": {"bindingVersion": _KAFKA_BINDING}},
    }


def _operation(topic: str, message: str) -> dict[str, Any]:
    channel = _camel(topic)
    return {
        "action": "receive" if topic in topics.PUBLIC_INPUTS else "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
    }


def _message(row: TopicContract, payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": topics.event_type(row.topic),
        "title": row.title.capitalize(),
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "description": "CloudEvents 1.0, Kafka protocol binding, binary content mode.",
            "required": ["ce_specversion", "ce_type", "ce_source", "ce_id"],
            "properties": {
                "ce_specversion": {"const": "1.0"},
                "ce_type": {"const": topics.event_type(row.topic)},
                "ce_source": {"type": "string", "description": "Who wrote the event."},
                "ce_id": {
                    "type": "string",
                    "description": "With the source, names the event once and for all.",
                },
                "content-type": {"const": "application/json"},
            },
        },
        "payload": payload,
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": row.key_is.capitalize() + "."},
                "bindingVersion": _KAFKA_BINDING,
            }
        },
    }


def _dead_letter() -> dict[str, Any]:
    described = {
        "ag_reason": "A short code, such as not_json.",
        "ag_message": "The same for people.",
        "ag_topic": "The input's topic, without prefix.",
        "ag_partition": "The input's partition.",
        "ag_offset": "The input's offset.",
        "ag_time_ms": "When it was met, in milliseconds since 1970-01-01 UTC.",
        "ag_shard": "Who met it.",
        "ag_height": "The block of the ledger that holds the record.",
        "ag_index": "The record's place in that block.",
        "ag_dn": "The letter's number, contiguous from 1 in each partition.",
    }
    return {
        "name": "adgovernor.dead-letter.v1",
        "title": "Input that could not be used",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "required": list(described),
            "properties": {name: {"type": "string", "description": text} for name, text in described.items()},
        },
        "payload": {"description": "The input's value, byte for byte."},
        "bindings": {"kafka": {"key": {"description": "The input's key."}, "bindingVersion": _KAFKA_BINDING}},
    }
