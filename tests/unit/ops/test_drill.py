"""What writers notice of a failover, worked out from when they were told what."""

from __future__ import annotations

from loyalty.ops.drill import Writer, result


def writer(*told_at: float) -> Writer:
    entries = [f"ent_{number}" for number, _ in enumerate(told_at)]
    return Writer("writer-0", entries, list(told_at))


def test_a_gap_counts_where_it_overlaps_the_failure_even_if_it_began_before_or_ended_after() -> None:
    one = writer(1.0, 1.1, 4.0, 4.1, 9.0, 9.1)
    assert one.gap_s(1.05, 3.0) == 4.0 - 1.1
    assert one.gap_s(2.0, 3.0) == 4.0 - 1.1
    assert one.gap_s(4.05, 4.2) == 9.0 - 4.1


def test_who_gets_no_answer_at_all_has_waited_for_as_long_as_the_failure_lasted() -> None:
    assert writer().gap_s(10.0, 13.5) == 3.5


def test_the_writer_that_waited_longest_is_what_counts() -> None:
    writers = [writer(1.0, 2.0, 3.0), writer(1.0, 2.9, 3.0)]
    found = result(writers, {"planned": [0.5, 2.5], "unplanned": [2.95, 3.0]}, ["ent_7"])
    assert found == {
        "planned_gap_seconds": 1.9,
        "unplanned_gap_seconds": 1.0,
        "acknowledged": 6,
        "acknowledged_lost": 1,
        "lost": ["ent_7"],
    }
