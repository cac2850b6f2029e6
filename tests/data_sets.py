"""Where the published data sets are; tests that read them are skipped where there are none."""

import pathlib

FOLDER = pathlib.Path(__file__).parents[2] / 'shared' / 'data'
