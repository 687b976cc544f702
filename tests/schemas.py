"""The JSON Schemas of `docs/schemas`, by topic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schemas"


def schema(topic: str) -> dict[str, Any]:
    """Return the schema of a topic's values."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{topic}.schema.json").read_bytes())
    return found


def validator(topic: str, part: str = "") -> Draft202012Validator:
    """Return a validator of a topic's values, or of one kind of them; the schema is itself valid.

    Args:
        topic: Name of the topic.
        part: One of the schema's definitions, or what is in one.
    """
    whole = schema(topic)
    Draft202012Validator.check_schema(whole)
    if part:
        whole = {"$ref": f"#/$defs/{part}", "$defs": whole["$defs"]}
    return Draft202012Validator(whole)
