"""Rows of files and data sets, as dicts that JSON could hold. Layer 0."""

import gzip
import json
import logging
import os
import xml.etree.ElementTree

import numpy as np


def read_records(source: str, make, max_bad: int) -> list:
    """make(where, row) of each row; where that raises ValueError, the row is skipped and reported.

    Args:
      source: the path of a file, JSON lines (.jsonl, .jsonl.gz), a JSON array (.json) or ASDiv's
        XML (.xml); or 'tfds:name/split' (an array_record builder, in TFDS_DATA_DIR or
        ~/tensorflow_datasets; needs no TensorFlow).
      max_bad: rows that may be malformed. One more, and the source is refused.
    make may return None for what is none of its business. Raises FileNotFoundError, or ValueError
    for too many bad rows or none that is good.
    """
    check_source(source)
    found, bad = [], []
    for where, row in _rows(source):
        try:
            if isinstance(row, Exception):
                raise ValueError(f'not JSON in UTF-8: {row}')
            if not isinstance(row, dict):
                raise ValueError(f'want an object, got {type(row).__name__}')
            found.append(make(where, row))
        except ValueError as problem:
            bad.append(f'{source}, {where}: {problem}')
            logging.warning('skipped: %s', bad[-1])
            if len(bad) > max_bad:
                raise ValueError(
                    f'more than max_bad={max_bad} bad rows in {source}; the first: {bad[0]}'
                ) from None
    if bad:
        logging.warning('%d rows of %s skipped, %d read', len(bad), source, len(found))
    found = [one for one in found if one is not None]
    if not found:
        raise ValueError(
            f'no prompt in {source}'
            + (f'; the first bad row: {bad[0]}' if bad else ': it is empty')
        )
    return found


def check_source(source: str) -> None:
    """FileNotFoundError or ValueError where `records` could not even open that source."""
    if source.startswith('tfds:'):
        if '/' not in source:
            raise ValueError(f'want tfds:name/split, got {source!r}')
    elif not os.path.isfile(source):
        raise FileNotFoundError(f'no prompt file {source!r}; give a JSONL file or tfds:name/split')


def _lines(path: str):
    with (gzip.open if path.endswith('.gz') else open)(path, 'rb') as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f'line {number}', json.loads(line.decode('utf-8-sig'))
                except (ValueError, RecursionError) as problem:
                    yield f'line {number}', problem


def _tfds(spec: str):
    import tensorflow_datasets as tfds

    name, _, split = spec.rpartition('/')
    for i, row in enumerate(tfds.data_source(name, split=split)):
        yield f'row {i}', _plain(row)


def _plain(value):
    """What tfds yields, as JSON has it; a sequence of features arrives as a dict of columns, a chat
    among them.
    """
    if isinstance(value, dict):
        value = {k: _plain(v) for k, v in value.items()}
        columns = value.values()
        if set(value) >= {'role', 'content'} and all(isinstance(c, list) for c in columns):
            return [dict(zip(value, cells)) for cells in zip(*columns)]
        return value
    if isinstance(value, np.ndarray) and value.ndim or isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    value = value.item() if isinstance(value, (np.generic, np.ndarray)) else value
    return value.decode() if isinstance(value, bytes) else value


def _rows(source: str):
    if source.startswith('tfds:'):
        return _tfds(source[len('tfds:') :])
    if source.endswith('.json'):
        return _array(source)
    return _problems(source) if source.endswith('.xml') else _lines(source)


def _array(path: str):
    with open(path, encoding='utf-8-sig') as file:
        try:
            rows = json.load(file)
        except ValueError as problem:
            raise ValueError(f'{path} is not a JSON array: {problem}') from None
    for i, row in enumerate(rows if isinstance(rows, list) else [rows]):
        yield f'row {i}', row


def _problems(path: str):
    for i, problem in enumerate(xml.etree.ElementTree.parse(path).iter('Problem')):
        yield (
            f'problem {i}',
            {**problem.attrib, **{part.tag: (part.text or '').strip() for part in problem}},
        )
