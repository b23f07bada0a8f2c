"""The score: points per feature value, added up and capped. The table is the whole rule."""

from collections.abc import Mapping
from functools import lru_cache

from schemas.decision import Contribution, Features, Score

SCORE_MAX = 100

POINTS: Mapping[str, Mapping[bool | str, int]] = {
    "kind": {"other": 20},
    "source_class": {"other": 5},
    "off_hours": {True: 10},
    "outcome": {"failure": 5},
    "failed_count": {"few": 5, "many": 20, "burst": 40},
    "several_countries": {True: 35},
    "privileged_user": {True: 10},
    "path_class": {"temporary": 30},
    "known_tool": {True: 40},
    "encoded_command": {True: 35},
    "system_file_changed": {True: 40},
    "private_to_public": {True: 5},
    "remote_access": {True: 25},
    "egress": {"large": 15, "huge": 40},
    "suspicious_words": {True: 30},
}


def score(features: Features) -> Score:
    """Add the points of each feature's value, in the table's order. A value the table does not name has none."""
    return _score(*[features[feature] for feature in POINTS])


@lru_cache(maxsize=4_096)
def _score(*values: bool | str) -> Score:
    """Features are a closed set of words, so that few combinations of them occur."""
    contributions = tuple(
        Contribution(feature, points[value])
        for (feature, points), value in zip(POINTS.items(), values, strict=True)
        if value in points
    )
    return Score(min(sum(share.points for share in contributions), SCORE_MAX), contributions)
