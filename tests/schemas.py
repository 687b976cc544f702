"""The JSON Schemas of `docs/schemas`, by topic."""

from __future__ import annotations

import json
from pathlib import Path

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schemas"


def validator(topic: str) -> Draft202012Validator:
    """Return a validator of a topic's values, whose schema is itself valid."""
    schema = json.loads((SCHEMAS / f"{topic}.schema.json").read_bytes())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
