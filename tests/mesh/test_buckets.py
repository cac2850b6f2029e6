"""A bucket is the smallest of its form that is large enough, and there are few of them."""

from selfrew.mesh import buckets


def test_a_bucket_is_the_smallest_of_its_form_that_is_large_enough():
    sizes = sorted({k << j for k in range(4, 8) for j in range(12)} | {0, 1, 2, 3})
    for size in range(1, 5000):
        assert buckets.bucket(size) == min(bucket for bucket in sizes if bucket >= size)
    assert buckets.bucket(0) == 0


def test_a_bucket_wastes_at_most_a_quarter_and_an_octave_has_four():
    assert max(buckets.bucket(size) / size for size in range(1, 4097)) <= 1.25
    assert len({buckets.bucket(size) for size in range(1025, 2049)}) == 4  # 1280 1536 1792 2048


def test_a_bucket_is_rounded_up_to_a_multiple():
    sizes = 1, 9, 17, 33, 41  # whose buckets are 1 10 20 40 48
    assert [buckets.bucket(size, 8) for size in sizes] == [8, 16, 24, 40, 48]
    assert [buckets.round_up(size, 32) for size in (0, 1, 32, 32.5)] == [0, 32, 32, 64]


def test_a_power_of_two_is_the_smallest_that_is_large_enough():
    sizes = 1, 2, 3, 4, 5, 8, 9
    assert [buckets.next_power_of_two(size) for size in sizes] == [1, 2, 4, 4, 8, 8, 16]
