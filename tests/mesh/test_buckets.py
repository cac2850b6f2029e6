"""Sizes come from a short ladder."""

from selfrew.mesh import buckets


def test_a_rung_is_the_least_of_its_form_that_is_no_smaller():
    ladder = sorted({k << j for k in range(4, 8) for j in range(12)} | {0, 1, 2, 3})
    for n in range(1, 5000):
        assert buckets.bucket(n) == min(x for x in ladder if x >= n)
    assert buckets.bucket(0) == 0


def test_a_rung_wastes_less_than_a_quarter_and_an_octave_has_four():
    assert max(buckets.bucket(n) / n for n in range(1, 4097)) <= 1.25
    assert len({buckets.bucket(n) for n in range(1025, 2049)}) == 4  # 1280, 1536, 1792, 2048


def test_a_rung_and_a_multiple():
    assert [buckets.bucket(n, 8) for n in (1, 9, 17, 33, 41)] == [
        8,
        16,
        24,
        40,
        48,
    ]  # of rungs 1 10 20 40 48
    assert [buckets.round_up(n, 32) for n in (0, 1, 32, 32.5)] == [0, 32, 32, 64]


def test_a_power_is_the_least_that_is_enough():
    assert [buckets.next_power_of_two(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]
