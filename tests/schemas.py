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


def validator(topic: str) -> Draft202012Validator:
    """Return a validator of a topic's values, whose schema is itself valid."""
    Draft202012Validator.check_schema(schema(topic))
    return Draft202012Validator(schema(topic))
