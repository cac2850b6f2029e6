"""Batches hold what the examples say: every token, mask and position, whatever the ids are."""

import numpy as np
import pytest
from toys import BOS, EOS, PAD, Numbers, docs, prompt

from selfrew.engine import packing
from selfrew.types import Example, Response, user_prompt

# --- rows ---------------------------------------------------------------------------------------


def _documents(batch):
    """The documents in a batch's rows, example number -> (prompt, responses), read from the ids of
    doc and branch alone.
    """
    documents = {}
    for row in range(len(batch.tokens)):
        for doc in set(batch.doc[row].tolist()) - {0}:
            is_doc = batch.doc[row] == doc
            prompt, *responses = [
                tuple(batch.tokens[row][is_doc & (batch.branch[row] == branch)].tolist())
                for branch in range(batch.ref_logp.shape[1] + 1)
            ]
            index = int(batch.index[doc - 1])
            assert index not in documents, 'a document stands in one row only'
            documents[index] = (prompt, tuple(responses))
    return documents


@pytest.mark.parametrize('row_length', [30, 100])
@pytest.mark.parametrize('responses', [1, 2, 3])
def test_rows_give_back_their_documents(responses, row_length):
    expected = docs(11, responses=responses, seed=responses, high=7)
    rng = np.random.default_rng(0)
    documents = {}
    for batch in packing.batches(expected, batch=4, row_length=row_length, rng=rng):
        documents |= _documents(batch)
    assert documents == {doc.index: (doc.prompt, doc.responses) for doc in expected}


def test_all_batches_have_one_shape_and_rows_divide_among_devices():
    rng = np.random.default_rng(1)
    batches = packing.batches(docs(23, seed=3), batch=5, row_length=40, parts=8, rng=rng)
    assert len(batches) == 5  # ceil(23 / 5)
    assert len({tuple(map(np.shape, batch)) for batch in batches}) == 1
    assert batches[0].tokens.shape[0] % 8 == 0


def _random_lengths(kind: str, count: int, rng) -> list[int]:
    """Of documents that fit into a row of 512."""
    geometric, even = 20 + rng.geometric(1 / 150, count), rng.integers(1, 513, count)
    is_short = rng.random(count) < 0.5
    two = np.where(is_short, rng.integers(20, 60, count), rng.integers(300, 400, count))
    lengths = {'geometric': geometric, 'even': even, 'two': two}[kind]
    return np.minimum(lengths, 512).tolist()


@pytest.mark.parametrize('kind, most', [('geometric', 1.06), ('even', 1.1), ('two', 1.08)])
def test_rows_are_close_to_the_fewest_that_could_be(kind, most):
    """No fewer than the tokens fill, nor than there are documents longer than half a row."""
    rng, rows, fewest = np.random.default_rng(0), 0, 0
    for _ in range(30):
        lengths = _random_lengths(kind, 64, rng)
        documents = [packing.Doc(i, (3,) * n, ((),), 1.0) for i, n in enumerate(lengths)]
        plan = packing.best_fit_rows(documents, 512)
        assert sorted(index for row in plan for index in row) == list(range(64))
        assert max(sum(lengths[index] for index in row) for row in plan) <= 512
        rows += len(plan)
        fewest += max(-(-sum(lengths) // 512), sum(2 * length > 512 for length in lengths))
    assert rows / fewest < most


# --- batches and epochs -------------------------------------------------------------------------


def test_epochs_have_one_shape_and_each_sees_every_document_once():
    documents, rng = docs(41, seed=3, high=20), np.random.default_rng(1)
    passes = packing.epochs(documents, 6, batch=8, row_length=64, parts=2, rng=rng)
    batches = [batch for epoch in passes for batch in epoch]
    assert len({tuple(np.shape(field) for field in batch) for batch in batches}) == 1
    for epoch in passes:
        seen = [int(index) for batch in epoch for index in batch.index[batch.real > 0]]
        assert sorted(seen) == list(range(41))
    assert len({tuple(epoch[0].index.tolist()) for epoch in passes}) == 6  # shuffled anew


def test_every_batch_gets_short_and_long_documents_alike():
    """Of 80 lengths that differ, a batch of 8 gets one of each ten by rank, so that its total is
    near the mean.
    """
    documents = [packing.Doc(i, (3,) * (5 + i), ((4,),), 1.0) for i in range(80)]
    rng = np.random.default_rng(2)
    for batch in packing.batches(documents, batch=8, row_length=128, rng=rng):
        assert sorted(batch.index // 10) == list(range(8))


def test_rounds_of_like_size_share_a_shape():
    shapes = set()
    for seed in range(12):
        documents, rng = docs(64, seed=seed, high=30), np.random.default_rng(seed)
        (*_, last) = packing.batches(documents, batch=16, row_length=96, rng=rng)
        shapes.add((last.tokens.shape, last.target.shape))
    assert len(shapes) <= 2


def test_micro_batches_share_out_the_rows_and_keep_the_totals():
    expected = docs(9, seed=1)
    (batch,) = packing.batches(expected, batch=11, row_length=40, parts=6)
    micros = packing.micro_batches(batch, 3)
    np.testing.assert_array_equal(sum(micro.real for micro in micros), batch.real)
    assert {micro.tokens.shape for micro in micros} == {(len(batch.tokens) // 3, 40)}
    assert {len(micro.target) for micro in micros} == {2}
    documents = {}
    for micro in micros:
        documents |= _documents(micro)
        assert micro.count == 9 and micro.lengths.tolist() == batch.lengths.tolist()
        indices = {doc - 1 for doc in micro.doc.ravel().tolist()} - {-1}
        assert indices == set(np.flatnonzero(micro.real).tolist())
    assert documents == _documents(batch)
    assert batch.lengths.tolist() == [
        sum(len(doc.responses[n]) for doc in expected) for n in range(2)
    ]


def test_the_last_incomplete_batch_is_filled_with_examples_that_are_not_real():
    documents = docs(7, seed=5)
    *_, last = packing.batches(documents, batch=4, row_length=40)
    assert last.real.tolist() == [1, 1, 1, 0]  # 7 = 4 + 3
    assert last.weight.tolist() == [np.float32(doc.weight) for doc in documents[4:]] + [0]
    assert set(last.doc.ravel().tolist()) == {0, 1, 2, 3}


def test_examples_of_unequal_numbers_of_responses_are_refused():
    unequal = docs(2, responses=1) + docs(2, responses=2)
    with pytest.raises(ValueError, match='responses: example 0 has 1, example 0 has 2'):
        packing.batches(unequal, batch=4, row_length=40)


def test_unannotated_references_are_nan():
    for batch in packing.batches(docs(5), batch=2, row_length=40):
        assert np.isnan(batch.ref_logp).all()


# --- masks, targets and positions ---------------------------------------------------------------


def test_masks_come_from_lengths_never_from_ids():
    response = (PAD, 7, EOS, PAD, PAD)  # a mask by ids would leave some out
    doc = packing.Doc(0, (BOS, PAD, EOS), (response, (EOS,)), 1.0)
    (batch,) = packing.batches([doc], batch=1, row_length=16)
    assert batch.mask.sum() == 6  # 5 tokens and 1
    part, column = np.nonzero(batch.mask)
    selected = batch.tokens.reshape(1, -1)[part, batch.target[part, column]]
    assert tuple(selected.tolist()) == (*response, EOS)


def _expected_pairs(batch):
    """By brute force, (source, target) of each response token, as indices into all rows end to end:
    the source is the same branch's token one position earlier, or else the prompt's last.
    """
    length = batch.doc.shape[1]
    pairs = set()
    for row, (doc, branch, position) in enumerate(zip(batch.doc, batch.branch, batch.position)):
        places = zip(doc.tolist(), branch.tolist(), position.tolist())
        columns = {place: column for column, place in enumerate(places) if place[0]}
        for (doc_id, branch_id, offset), column in columns.items():
            if branch_id:
                in_branch, in_prompt = (doc_id, branch_id, offset - 1), (doc_id, 0, offset - 1)
                source = columns[in_branch] if in_branch in columns else columns[in_prompt]
                pairs.add((row * length + source, row * length + column))
    return pairs


def test_each_token_is_predicted_from_the_one_before_it_in_its_own_branch():
    documents, rng = docs(9, responses=3, seed=7), np.random.default_rng(2)
    for batch in packing.batches(documents, batch=5, row_length=60, rng=rng):
        part, column = np.nonzero(batch.mask)
        first = part * batch.doc.size // len(batch.target)  # index of the part's first token
        sources = (first + batch.source[part, column]).tolist()
        targets = (first + batch.target[part, column]).tolist()
        pairs = list(zip(sources, targets))
        assert len(pairs) == len(set(pairs)) and set(pairs) == _expected_pairs(batch)


def test_positions_of_every_branch_continue_the_prompt():
    for batch in packing.batches(docs(9, responses=3, seed=8), batch=5, row_length=60):
        for row in range(len(batch.tokens)):
            for doc in set(batch.doc[row].tolist()) - {0}:
                prompt, *responses = [
                    batch.position[row][(batch.doc[row] == doc) & (batch.branch[row] == branch)]
                    for branch in range(4)
                ]
                assert prompt.tolist() == list(range(len(prompt)))
                for response in responses:
                    stop = len(prompt) + len(response)
                    assert response.tolist() == list(range(len(prompt), stop))


# --- from text to tokens ------------------------------------------------------------------------


def test_a_given_response_ends_once_and_only_where_it_ended_by_itself(tiny):
    lm, _ = tiny
    responses = Response('so it is', finish='stop'), Response('so it', finish='length')
    example = Example(user_prompt('a', 'Is it?'), responses)
    ((doc,), dropped) = packing.tokenise(lm.text, [example], row_length=128)
    assert dropped == 0
    assert doc.responses[0].count(lm.text.eos) == 1 and doc.responses[0][-1] == lm.text.eos
    assert lm.text.eos not in doc.responses[1]
    assert [lm.text.decode(tokens) for tokens in doc.responses] == ['so it is', 'so it']


def test_sampled_tokens_stay_as_they_were_sampled(tiny):
    lm, _ = tiny
    word = lm.text.decode([lm.config.vocab - 1])  # the last merge of the vocabulary
    letters = tuple(token for letter in word for token in lm.text.encode(letter))
    assert letters != tuple(lm.text.encode(word)), 'tokenised again, they would be others'
    example = Example(user_prompt('a', 'What?'), (Response(word, letters, 'stop', -3.0),))
    ((doc,), _) = packing.tokenise(lm.text, [example], row_length=128)
    assert doc.responses == (letters,)


def test_a_prompt_has_its_bos_once(tiny):
    lm, _ = tiny
    for question in (user_prompt('a', 'Hi'), user_prompt('b', ''), user_prompt('c', 'Hi')):
        tokens = lm.text.prompt_tokens(question)
        assert tokens.count(lm.text.bos) == 1 and tokens[0] == lm.text.bos


def test_what_does_not_fit_is_dropped_whole_and_counted():
    # 1 BOS + 3 of the prompt + (k + 1 EOS) of the response: 5 + k tokens
    examples = [Example(prompt([5, 6, 7]), (Response(' '.join(['9'] * k)),)) for k in (1, 5, 6, 30)]
    documents, dropped = packing.tokenise(Numbers(), examples, row_length=10)
    assert dropped == 2 and [doc.index for doc in documents] == [0, 1]
    assert [len(doc.responses[0]) for doc in documents] == [2, 6]


def test_an_example_with_an_empty_response_is_dropped_and_counted():
    empty = Example(prompt([5]), (Response('4'), Response('', finish='length')))
    only_end = Example(prompt([5]), (Response('4'), Response('')))  # its end token alone
    documents, dropped = packing.tokenise(Numbers(), [empty, only_end], row_length=20)
    assert dropped == 1 and [doc.responses for doc in documents] == [((4, EOS), (EOS,))]


def test_what_is_longer_than_the_models_positions_is_left_out_however_long_the_row():
    """BOS and five tokens of prompt, three and five of responses: 6 + 5 = 11 positions, 14 places
    of a row.
    """
    responses = Response('9 9', finish='stop'), Response('9 9 9 9')
    examples = [Example(prompt(range(3, 8)), responses)]
    assert packing.tokenise(Numbers(), examples, row_length=14, positions=11)[1] == 0
    assert packing.tokenise(Numbers(), examples, row_length=14, positions=10)[1] == 1
    assert packing.tokenise(Numbers(), examples, row_length=13, positions=11)[1] == 1
