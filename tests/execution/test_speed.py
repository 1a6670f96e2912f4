"""What the README promises on time, beside the script by hand: the least of a few runs, for machines are noisy."""

from __future__ import annotations

import statistics

from benchmarks.small import measure


def test_the_small_mlp_is_fast() -> None:
    """Other tests run beside this one: what counts is the best of several rounds."""
    for _ in range(4):
        by_help, ours, by_hand = measure(5).values()
        if min(by_help) <= 0.2 and min(ours) <= 0.35:
            break
    assert min(by_help) <= 0.2
    assert min(ours) <= 0.35
    assert statistics.median(b / a for a, b in zip(ours, by_hand, strict=True)) >= 4
