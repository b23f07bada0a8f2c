"""The published versions of the envelope, and which of them a reader may take for which.

`schemas/v<major>/<minor>.json` is the contract of one version, as JSON Schema 2020-12. A published
file is never changed. A later minor leaves every known field and demand as it is and adds optional
fields alone, so within a major old readers read new envelopes and new readers old ones;
`tests/unit/schemas/test_registry.py` holds every published minor to that.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

import msgspec

Schema = Mapping[str, Any]
_ANNOTATIONS = frozenset({"$id", "title", "description", "examples", "$comment", "deprecated"})


def _load() -> dict[str, Schema]:
    """Every file of the registry, by version, in ascending order."""
    found = {
        (int(major.name[1:]), int(minor.name.removesuffix(".json"))): msgspec.json.decode(minor.read_bytes())
        for major in files("schemas").iterdir()
        if major.is_dir() and major.name[1:].isdigit()
        for minor in major.iterdir()
    }
    return {f"{major}.{minor}": found[major, minor] for major, minor in sorted(found)}


PUBLISHED: Mapping[str, Schema] = _load()


def readable(version: str, readers: Collection[str]) -> bool:
    """Whether one of the readers may take an envelope of this version, all given as major.minor.

    The reader of that very version may, and so may one of an earlier minor of the same major: unless
    a published schema says otherwise, a minor is backward compatible. An unknown major is refused.
    """
    return version in readers or any(_reads(reader, version) for reader in readers)


@lru_cache(maxsize=1_024)  # bounded: the version is the sender's to choose
def _reads(reader: str, version: str) -> bool:
    (reader_major, reader_minor), (major, minor) = _parts(reader), _parts(version)
    if reader_major != major or reader_minor > minor:
        return False
    older, newer = PUBLISHED.get(reader), PUBLISHED.get(version)
    return older is None or newer is None or not breaking_changes(older, newer)


def _parts(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)


def breaking_changes(older: Schema, newer: Schema) -> list[str]:
    """What keeps the two from being minors of one major: empty when the newer only adds optional fields.

    Only words may differ otherwise. A demand that was loosened breaks as one that was tightened does:
    the older version's readers still make it.
    """
    was, now = older["properties"], newer["properties"]
    required_before, required_now = set(older["required"]), set(newer["required"])
    found = [f"removed field {name}" for name in was if name not in now]
    found += [f"changed field {name}" for name in was if name in now and _demands(was[name]) != _demands(now[name])]
    found += [f"newly required field {name}" for name in sorted(required_now - required_before)]
    found += [f"no longer required field {name}" for name in sorted(required_before - required_now)]
    rest_before, rest_now = (
        {word: value for word, value in _demands(one).items() if word not in {"properties", "required"}}
        for one in (older, newer)
    )
    return found if rest_before == rest_now else [*found, "changed demands on the envelope as a whole"]


def _demands(schema: Schema) -> dict[str, Any]:
    """The schema without its words."""
    return {word: value for word, value in schema.items() if word not in _ANNOTATIONS}
