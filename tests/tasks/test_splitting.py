"""Near-copies of a text lie on one side of a split, in one file and across files."""

import collections
import random
import re

import data_sets
import numpy as np
import pytest

from selfrew.tasks import published, records, splitting

BOTTLE_CAPS = [
    'Danny collects bottle caps. He lost 66 bottle caps at the park. How many are left?',
    # other numbers, another name, another question
    'Danny collects bottle caps. He lost 7 bottle caps at the park. How many are left?',
    'Paul collects bottle caps. He lost sixty-six bottle caps at the park. How many are left?',
    'Mary Ann collects bottle caps. He lost 66 bottle caps at the park. What did he lose in all?',
    # other punctuation, plurals and spaces, and another rest
    "Joe's Danny collects  many bottle-cap . Then he found 3 , 000 of them. How many are there ?",
]


@pytest.mark.parametrize('copy', BOTTLE_CAPS)
def test_a_copy_with_other_numbers_names_and_question_has_the_same_key(copy):
    assert splitting.split_key(copy) == 'bottl collect'


@pytest.mark.parametrize(
    'text, key',
    [
        # The question counts only where no content word comes before it.
        ('Tom has 3 apples. How many pears did he buy?', 'appl'),
        ('Tom has 3 apples. How many pears did Mr. Li buy in 2.5 hours?', 'appl'),
        ('Tom has 3. How many pears did he buy?', 'bui pear'),
        ('How many pears did he buy in 2.5 hours?', 'bui pear'),
        # In whichever order.
        ('The girls and the boys.', 'boi girl'),
        ('The boys and the girls.', 'boi girl'),
        # Without a content word, the text itself, but for its spaces.
        ('What is  2 + 2?', 'What is 2 + 2?'),
        ('', ''),
        ('两 个苹果 在 桌子 上', '两 个苹果'),
    ],
)
def test_the_key_is_the_first_two_content_words(text, key):
    assert splitting.split_key(text) == key


@pytest.mark.parametrize(
    'one, many',
    [
        ('cake', 'cakes'),
        ('city', 'cities'),
        ('boy', 'boys'),
        ('box', 'boxes'),
        ('bus', 'buses'),
        ('glass', 'glasses'),
    ],
)
def test_a_plural_is_the_same_word(one, many):
    assert splitting.split_key(f'2 {many} and 3 plants.') == splitting.split_key(
        f'1 {one} and plant.'
    )


def test_the_share_of_texts_held_out_is_that_asked_for_and_grows_with_it():
    rng = random.Random(0)
    letters = 'bcdfghjklmnpqrtvw'
    texts = [''.join(rng.choices(letters, k=9)) + ' thing.' for _ in range(4000)]
    held_out = {
        share: {text for text in texts if splitting.is_held_out(text, share)}
        for share in (0.01, 0.05, 0.5)
    }
    for share, those in held_out.items():
        deviation = (share * (1 - share) / len(texts)) ** 0.5
        assert len(those) / len(texts) == pytest.approx(share, abs=4 * deviation)
    assert held_out[0.01] < held_out[0.05] < held_out[0.5]


# --- the public sets ---

SETS = {
    'svamp': ('svamp', ['svamp/svamp_dev_700.jsonl']),
    'asdiv': ('asdiv', ['asdiv/ASDiv.xml']),
    'mawps': (
        'mawps',
        [f'mawps/{part}.jsonl' for part in ('addsub', 'multiarith', 'singleeq', 'singleop')],
    ),
}
has_data = pytest.mark.skipif(not data_sets.FOLDER.is_dir(), reason='the data sets are not here')


def _questions(name) -> list[str]:
    form, files = SETS[name]
    return [
        problem.question
        for file in files
        for problem in records.read_records(
            str(data_sets.FOLDER / file), lambda _, row: published.read(form, row), 10
        )
    ]


def _shingles(text: str) -> frozenset:
    """The word 3-grams of a text, numbers masked."""
    masked = re.sub(r'\d+(?:[.,]\d+)*', ' 0 ', text.lower())
    words = re.findall(r"[a-z']+|0", masked)
    return frozenset(zip(words, words[1:], words[2:]))


def _similar_pairs(first: list[str], second: list[str], least: float) -> list[tuple[str, str]]:
    """The pairs of a text of each list whose shingles have at least this Jaccard similarity."""
    sets, places = list(map(_shingles, second)), collections.defaultdict(list)
    for j, shingles in enumerate(sets):
        for shingle in shingles:
            places[shingle].append(j)
    pairs = []
    for text in first:
        own = _shingles(text)
        shared = collections.Counter(j for shingle in own for j in places[shingle])
        for j, count in shared.items():
            if count / (len(own) + len(sets[j]) - count) >= least:
                pairs.append((text, second[j]))
    return pairs


@has_data
@pytest.mark.parametrize(
    'first, second, count, same_key, straddling',
    [('svamp', 'asdiv', 66, 60, 1), ('asdiv', 'mawps', 664, 655, 0)],
)
def test_near_copies_in_two_public_sets_seldom_straddle(first, second, count, same_key, straddling):
    """Texts hashed whole would straddle in 3 of the 66 pairs and 56 of the 664 at this share."""
    pairs = _similar_pairs(_questions(first), _questions(second), 0.6)
    assert len(pairs) == count
    keys = [(splitting.split_key(a), splitting.split_key(b)) for a, b in pairs]
    assert sum(a == b for a, b in keys) == same_key
    sides = [(splitting.is_held_out(a, 0.05), splitting.is_held_out(b, 0.05)) for a, b in pairs]
    assert sum(a != b for a, b in sides) == straddling


@has_data
@pytest.mark.parametrize('name, share', [('svamp', 0.053), ('asdiv', 0.054), ('mawps', 0.056)])
def test_of_the_public_sets_about_as_much_is_held_out_as_asked(name, share):
    held_out = [splitting.is_held_out(question, 0.05) for question in _questions(name)]
    assert np.mean(held_out) == pytest.approx(share, abs=0.001)
