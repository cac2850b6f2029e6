"""Topologies are parsed from any of their names, and a chip's figures agree with each other."""

import pytest

from selfrew.plan import chips


@pytest.mark.parametrize(
    ('name', 'kind', 'shape'),
    [
        ('v5p:8x8x4', 'v5p', '8x8x4'),
        ('v5p-8', 'v5p', '2x2x1'),
        ('v5p-16', 'v5p', '2x2x2'),
        ('v5p-512', 'v5p', '4x8x8'),
        ('v4-16', 'v4', '2x2x2'),
        ('v5e-8', 'v5e', '2x4'),
        ('v5litepod-8', 'v5e', '2x4'),
        ('v6e-16', 'v6e', '4x4'),
        ('v6e:4x4', 'v6e', '4x4'),
        ('v5e-1', 'v5e', '1x1'),
    ],
)
def test_topologies_are_known_by_shape_and_by_the_name_they_are_rented_by(name, kind, shape):
    assert chips.topology(name) == (kind, shape)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('v9-8', 'there are: v4, v5e, v5p, v6e'),
        ('v5p', 'v5p:4x4x4'),
        ('', 'no topology'),
        ('v5p-9', 'two a chip'),
        ('v6e-12', 'power of two'),
        ('v5e:2by4', 'no topology'),
    ],
)
def test_another_topology_is_refused_in_a_sentence(name, words):
    with pytest.raises(ValueError, match=words):
        chips.topology(name)


def test_a_clock_gives_the_published_peak():
    """FLOP/s = 2 · cores · matrix units a core · 128² · Hz; four units a core."""
    for kind in ('v4', 'v5e', 'v5p'):
        chip = chips.CHIPS[kind]
        assert 2 * chip.cores * 4 * 128**2 * chip.clock == pytest.approx(chip.peak, rel=0.01)


def test_time_is_the_slowest_floor_and_then_the_collectives():
    chip = chips.CHIPS['v5e']
    second = {'kernels': 1.0, 'flops': 0.0, 'touched': 0.0, 'wire': 0.0}
    reading = second | {'touched': 2 * 0.819e12, 'wire': 200e9}  # two of HBM, one of links
    computing = second | {'flops': 4 * 8 * 197e12}  # four of eight chips at peak
    assert chip.seconds(8, **second) == pytest.approx(1.0)
    assert chip.seconds(8, **reading) == pytest.approx(3.0)
    assert chip.seconds(8, **computing) == pytest.approx(4.0)


def test_the_bound_is_of_the_flops_or_of_what_must_be_read():
    chip = chips.CHIPS['v5e']
    assert chip.bound(8, flops=8 * 197e12, touched=0.819e12 / 2) == (1.0, 'FLOPs')
    assert chip.bound(8, flops=8 * 197e12, touched=2 * 0.819e12) == (2.0, 'HBM')


def test_a_pallas_kernel_takes_the_time_of_its_bytes_or_of_its_flops():
    chip = chips.CHIPS['v5e']
    assert chip.kernel_seconds(2 * 197e12, 0.819e12) == pytest.approx(2.0)
    assert chip.kernel_seconds(197e12, 3 * 0.819e12) == pytest.approx(3.0)
