"""Each page belongs to one slot, in its part of the mesh, and keeps its content when repacked."""

import numpy as np
import pytest

from selfrew.engine.generate.page_table import PageTable


def test_a_freed_page_can_be_allocated_again():
    table = PageTable(2, 3, 16, 4)
    table.allocate(0, 3)
    assert sorted(table.global_pages(0, 3)) == [1, 2, 3]
    with pytest.raises(IndexError):
        table.allocate(1, 1)
    table.free(0)
    table.allocate(1, 2)
    assert table.allocated.tolist() == [0, 2] and (table.global_pages(0, 3) == 0).all()


def test_pages_needed_is_that_of_the_fullest_part():
    """Page 0, and in the second part 2 + 3 pages: what a slot has it keeps."""
    table = PageTable(4, 3, 16, 6, 2)
    table.allocate(2, 2)
    assert table.pages_of(np.array([0, 1, 16, 17])).tolist() == [0, 1, 1, 2]
    assert table.pages_needed(np.array([1, 1, 0, 3])) == 6


def test_device_arrays_say_whose_each_page_is():
    """Slot 3 is the second of the second part; its pages are numbered from that part's first."""
    table = PageTable(4, 2, 16, 3, 2)
    table.allocate(0, 1)
    table.allocate(3, 2)
    pages = table.device_arrays()
    assert pages.table.tolist() == [[1, 0], [0, 0], [0, 0], [1, 2]]
    assert pages.owner.tolist() == [0, 0, 0, 0, 1, 1]
    assert pages.place.tolist() == [0, 0, 0, 0, 0, 1]


def test_repacking_names_the_old_page_of_each_new_one():
    table = PageTable(4, 2, 16, 5)
    for slot in (0, 2, 3):
        table.allocate(slot, 1)
    table.allocate(3, 2)
    old = [table.global_pages(slot, 2) for slot in (2, 3)]
    table.free(0)
    source = table.repack(np.array([2, 3]), 4)
    new = [table.global_pages(slot, 2) for slot in (0, 1)]
    assert (source[0][np.stack(new)] == np.stack(old)).all()
    assert table.allocated.tolist() == [1, 2] and table.total_pages == 4


def test_shared_pages_come_first_and_belong_to_all_slots():
    table = PageTable(4, pages_per_slot=5, page_size=4, pages=20, parts=2, shared=2)
    np.testing.assert_array_equal(table.shared_pages(), [[1, 2], [21, 22]])
    for slot in range(4):
        table.allocate(slot, 3)
    np.testing.assert_array_equal(table.table[:, :2], [[1, 2]] * 4)
    own = table.table[:, 2].tolist()
    assert len(set(own[:2])) == len(set(own[2:])) == 2 and min(own) > 2
    # page 0, two shared ones, and of the two slots of a part one and four of their own
    assert table.pages_needed(np.array([3, 5, 3, 3])) == 1 + 2 + 1 + 3
    table.free(0)
    table.allocate(1, 5)
    source = table.repack(np.array([1, 2, 3, 0]), 12)
    np.testing.assert_array_equal(source[:, 1:3], [[1, 2]] * 2)
    np.testing.assert_array_equal(table.table[:3, :2], [[1, 2]] * 3)
    assert table.allocated.tolist() == [5, 3, 3, 0] and not table.table[3].any()
