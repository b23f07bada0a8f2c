"""The score: an exact sum of the table's points."""

from itertools import pairwise

from schemas.decision import Contribution
from streams.features import features_of
from streams.scoring import POINTS, SCORE_MAX, score

CALM = features_of({"source": "sshd", "created_at": "2026-01-01T10:00:00Z", "payload": {"kind": "auth.login"}})


def test_a_calm_event_scores_nothing() -> None:
    assert score(CALM) == (0, ())


def test_every_point_of_the_table_is_given_to_its_feature_alone() -> None:
    for feature, points in POINTS.items():
        for value, expected in points.items():
            found = score({**CALM, feature: value})
            assert found == (expected, (Contribution(feature, expected),))


def test_the_score_is_the_sum_of_the_contributions_until_the_cap() -> None:
    worst = {feature: max(points, key=lambda value: points[value]) for feature, points in POINTS.items()}
    features = dict(CALM)
    scores = []
    for feature, value in worst.items():
        features[feature] = value
        found = score(features)
        assert found.value == min(sum(share.points for share in found.contributions), SCORE_MAX)
        scores.append(found.value)
    assert all(earlier <= later for earlier, later in pairwise(scores))
    assert scores[-1] == SCORE_MAX
    assert [share.feature for share in score(features).contributions] == list(POINTS)


def test_the_table_names_only_features_that_exist() -> None:
    assert set(POINTS) <= set(CALM)
