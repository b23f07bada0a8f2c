"""Joining the OpenMetrics texts of several processes into one."""

import re
from collections.abc import Iterable

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_SAMPLE = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{| )", re.MULTILINE)


def labelled(text: bytes, label: str, value: str) -> bytes:
    """The exposition with one more label on every sample. The value needs no escapes."""
    pair = f'{label}="{value}"'.encode()

    def with_pair(sample: re.Match[bytes]) -> bytes:
        return sample[1] + b"{" + pair + (b"," if sample[2] == b"{" else b"} ")

    return _SAMPLE.sub(with_pair, text)


def joined(texts: Iterable[bytes]) -> bytes:
    """One exposition of all families: each family's metadata once, its samples together, one `# EOF`."""
    families: dict[str, tuple[dict[str, str], list[str]]] = {}
    for text in texts:
        samples: list[str] = []
        for line in text.decode().splitlines():
            if not line.startswith("# "):
                samples.append(line)
            elif line != "# EOF":
                keyword, name = line.split(" ")[1:3]
                metadata, samples = families.setdefault(name, ({}, []))
                metadata.setdefault(keyword, line)
    lines = [line for metadata, samples in families.values() for line in (*metadata.values(), *samples)]
    return "\n".join([*lines, "# EOF", ""]).encode()
