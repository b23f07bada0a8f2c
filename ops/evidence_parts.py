"""The parts of evidence that the settings choose between."""

from ops.clock import SystemClock
from sinks.settings import EvidenceSettings
from sinks.worm import DirectoryWorm, Worm


def worm_of(settings: EvidenceSettings) -> Worm:
    """The store of sealed evidence: the bucket of FG_WORM_S3_URL, else the directory.

    Raises NotADirectoryError as `DirectoryWorm`.
    """
    if not settings.worm_s3.url:
        return DirectoryWorm(settings.worm_dir)
    from sinks.worm_s3 import S3Worm  # noqa: PLC0415  (half a second and 30 MiB that only a bucket is worth)

    return S3Worm(settings.worm_s3, SystemClock())
