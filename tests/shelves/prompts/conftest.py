"""What the tests of prompts share: a file with the rows of a test."""

import json

import pytest


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows, a line each, and returns the file's path. A row is a value for JSON, or the
    bytes of its line.
    """

    def write(*rows) -> str:
        path = tmp_path / 'rows.jsonl'
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b'\n'.join(lines) + b'\n')
        return str(path)

    return write
