"""Rows of files and data sets, as dicts of what JSON can hold."""

import gzip
import json
import logging
import os
import xml.etree.ElementTree
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# What reading a damaged file raises, and what a row of another form does.
DAMAGED = OSError, EOFError, zlib.error, xml.etree.ElementTree.ParseError, RecursionError
BAD_ROW = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError),
    *(RecursionError, OverflowError),
)
Rows = Iterator[tuple[str, Any]]  # (the row's place in its source, the row or its parse error)


def read_records(source: str, make: Callable, max_bad: int) -> list:
    """make(place, row) for each row of a source, without those that are None.

    Args:
      source: the path of a file, JSON lines (.jsonl, .jsonl.gz), a JSON array (.json) or ASDiv's
        XML (.xml); or 'tfds:name/split' (an array_record builder, in TFDS_DATA_DIR or
        ~/tensorflow_datasets; needs no TensorFlow).
      make: returns None for a row to leave out; raises ValueError for a malformed row, which is
        skipped and logged.
      max_bad: how many rows may be malformed.
    Raises FileNotFoundError, or ValueError for more malformed rows, for no good one, or for a file
    that is damaged: truncated, or not what its name says.
    """
    check_source(source)
    records, errors = [], []
    for place, row in _readable_rows(source):
        try:
            records.append(make(place, _checked(row)))
        except BAD_ROW as error:
            reason = str(error)
            if not isinstance(error, ValueError):
                reason = f'the row has another form: {type(error).__name__} {error}'
            errors.append(f'{source}, {place}: {reason}')
            logging.warning('skipped: %s', errors[-1])
            if len(errors) > max_bad:
                raise ValueError(
                    f'more than max_bad={max_bad} bad rows in {source}; the first: {errors[0]}'
                ) from None
    if errors:
        logging.warning('%d rows of %s skipped, %d read', len(errors), source, len(records))
    read = len(records)
    records = [record for record in records if record is not None]
    if not records:
        empty = f': none of its {read} rows is asked for' if read else ': it is empty'
        reason = f'; the first bad row: {errors[0]}' if errors else empty
        raise ValueError(f'no prompt in {source}{reason}')
    return records


def _readable_rows(source: str) -> Rows:
    """The rows of a source. Raises ValueError, with the last place, where it cannot be read on."""
    place = None
    try:
        for place, row in _rows(source):
            yield place, row
    except DAMAGED as problem:
        where = 'at its start' if place is None else f'after {place}'
        reason = str(problem) or type(problem).__name__
        raise ValueError(f'{source} is damaged: it cannot be read {where} ({reason})') from None


def check_source(source: str) -> None:
    """Raises FileNotFoundError or ValueError if `read_records` cannot open the source."""
    if source.startswith('tfds:'):
        if '/' not in source:
            raise ValueError(f'want tfds:name/split, got {source!r}')
    elif not os.path.isfile(source):
        raise FileNotFoundError(f'no prompt file {source!r}; give a JSONL file or tfds:name/split')


def _checked(row) -> dict:
    """The row if it is a JSON object, else ValueError."""
    if isinstance(row, Exception):
        raise ValueError(f'not JSON in UTF-8: {row}')
    if not isinstance(row, dict):
        raise ValueError(f'want an object, got {type(row).__name__}')
    for name, value in row.items():
        try:
            json.dumps([name, value], ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f'the field {ascii(name)} holds half of a surrogate pair, which is no text'
            ) from None
        except RecursionError:
            raise ValueError(f'the field {name!r} is nested too deeply') from None
    return row


def _rows(source: str) -> Rows:
    if source.startswith('tfds:'):
        return _tfds_rows(source.removeprefix('tfds:'))
    if source.endswith('.json'):
        return _json_rows(source)
    return _xml_rows(source) if source.endswith('.xml') else _json_lines(source)


def _json_lines(path: str) -> Rows:
    with (gzip.open if path.endswith('.gz') else open)(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f'line {number}', json.loads(line.decode('utf-8-sig'))
                except (ValueError, RecursionError) as error:
                    yield f'line {number}', error


def _json_rows(path: str) -> Rows:
    with open(path, encoding='utf-8-sig') as file:
        try:
            rows = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{path} is not a JSON array: {error}') from None
    for i, row in enumerate(rows if isinstance(rows, list) else [rows]):
        yield f'row {i}', row


def _xml_rows(path: str) -> Rows:
    try:
        tree = xml.etree.ElementTree.parse(path)
    except LookupError as problem:
        raise ValueError(f'{path} is not XML: {problem}') from None
    for i, problem in enumerate(tree.iter('Problem')):
        parts = {part.tag: (part.text or '').strip() for part in problem}
        yield f'problem {i}', {**problem.attrib, **parts}


def _tfds_rows(spec: str) -> Rows:
    import tensorflow_datasets as tfds  # noqa: PLC0415 - takes seconds; most runs read files

    name, _, split = spec.rpartition('/')
    for i, row in enumerate(tfds.data_source(name, split=split)):
        yield f'row {i}', _plain(row)


def _plain(value):
    """A value from tfds as JSON has it.

    tfds gives a sequence of features as a dict of columns; a chat in that form becomes a list of
    messages.
    """
    if isinstance(value, dict):
        value = {name: _plain(feature) for name, feature in value.items()}
        columns = value.values()
        if set(value) >= {'role', 'content'} and all(isinstance(c, list) for c in columns):
            return [dict(zip(value, cells)) for cells in zip(*columns)]
        return value
    if isinstance(value, np.ndarray) and value.ndim or isinstance(value, (list, tuple)):
        return [_plain(element) for element in value]
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.item()
    return value.decode() if isinstance(value, bytes) else value
