"""The code that CONTRIBUTING.md walks through is the code of the project, to the letter."""

import inspect
import pathlib

from selfrew.shelves import losses

ROOT = pathlib.Path(__file__).parents[1]


def test_the_walk_shows_the_loss_and_its_tests_as_they_are():
    _, *blocks = (ROOT / 'CONTRIBUTING.md').read_text().split('```python\n')
    shown_loss, shown_tests = [block.split('```')[0].strip() for block in blocks]
    assert shown_loss == inspect.getsource(losses.ipo).strip()
    assert shown_tests in (ROOT / 'tests/shelves/test_losses.py').read_text()
