"""The operations of evidence in the OpenAPI document."""

from typing import Any

from edge.openapi_fields import READ_FIELDS

BUNDLE_ID_IN_PATH = {"name": "bundle_id", "in": "path", "required": True, "schema": {"type": "string"}}
EXPORT_FIELDS = [
    *READ_FIELDS,
    {
        "name": "include_trace",
        "in": "query",
        "required": False,
        "description": "With a line of spans for each entry",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    *(
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": text,
            "schema": {"type": "string", "format": "date-time"},
        }
        for name, text in (
            ("from", "From the first event received then or later"),
            ("to", "To the last event received then or before"),
        )
    ),
]
BUNDLE: dict[str, Any] = {
    "type": "object",
    "required": ["tenant_id", "bundle_id", "status", "created_at", "updated_at", "sha256", "bytes", "bundle"],
    "properties": {
        "tenant_id": {"type": "string"},
        "bundle_id": {"type": "string"},
        "status": {"type": "string", "enum": ["pending", "ready", "failed"]},
        "created_at": {"type": "string", "format": "date-time"},
        "updated_at": {"type": "string", "format": "date-time"},
        "sha256": {"type": ["string", "null"], "description": "Of the whole file"},
        "bytes": {"type": ["integer", "null"]},
        "bundle": {"type": "object", "description": "The order; of a ready bundle what its manifest says"},
    },
}
