"""Nets of two authors at random: paired rightly or asked about, never wrong."""

from __future__ import annotations

from collections import Counter

from tests.matching.random_nets import outcome


def test_nets_of_two_authors_are_paired_rightly_or_asked_about() -> None:
    """`python -m tests.matching.random_nets 10000` tries more."""
    count = Counter(map(outcome, range(200)))
    assert not count["wrong"], next(seed for seed in range(200) if outcome(seed) == "wrong")
    assert count["right"] > 150
