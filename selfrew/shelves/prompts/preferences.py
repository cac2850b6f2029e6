"""Pairs that others made: preferences of people, of judges, or of an earlier run."""

import itertools
import os
import re
from typing import cast

from selfrew.shelves.prompts.rows import (
    draw,
    in_portions,
    is_on_side,
    messages_of,
    read_prompts,
    with_given,
)
from selfrew.types import Example, Prompt, from_json

# Who speaks in the dialogues of HH-RLHF, each turn after an empty line.
DIALOGUE_TURN = re.compile(r'\n\n(Human|Assistant):')
ROLE_OF = {'Human': 'user', 'Assistant': 'assistant'}
# Fields with the scores of the chosen and the rejected response.
SCORE_FIELDS = ('score_chosen', 'score_rejected'), ('chosen_score', 'rejected_score')


@in_portions
def preferences(
    lm,
    params,
    key,
    *,
    source: str,
    n: int | None = None,
    split: str | None = None,
    heldout: float = 0.05,
    max_bad: int = 10,
    portion: int = 1,
    portions: int = 1,
) -> list[Prompt]:
    """Prompts with responses that were already compared, and their scores as grades.

    With sampler and scorer `given` and any pair rule these are pairs; joined to a round (see
    turns.bind_turns), it trains on them together with its own. With sampler with_greedy(given) and
    a scorer that scores any response, the model's own response is ranked among them (SELM).

    A row has one of these forms:
      prompt, chosen, rejected: texts, or lists of chat messages, which may begin with the prompt's;
        with scores in score_chosen and score_rejected (UltraFeedback-binarized; also within a field
        `metadata`), or without, and then 1 and 0.
      chosen, rejected: the prompt is what both begin with: chat messages, a dialogue of Human and
        Assistant (HH-RLHF), or a text up to the last space that both share.
      prompt, completion, label: one response that is desirable, grade 1, or not, grade 0.
      prompt, responses, scores, …: a line of a run's rounds/…/examples.jsonl, with all of its
        responses as they were; without scores, 1 for the first and 0 for the others.

    Args:
      source: see tasks.records.read_records.
      n, split, heldout, max_bad, portion, portions: see data.records. Bad rows are those of another
        form, with an empty response, with equal ones, with nothing in common before them, or whose
        scores contradict which one was chosen.
    Raises as data.records does.
    """
    del params

    def read_row(place: str, row: dict) -> Prompt | None:
        made = _read_row(place, row)
        asked = next((m['content'] for m in made.messages if m['role'] == 'user'), '')
        return made if is_on_side(asked, split, heldout) else None

    made = read_prompts(lm, source, read_row, max_bad)
    return draw(made, n, source, key, portion=portion, portions=portions)


def _read_row(place: str, row: dict) -> Prompt:
    """The prompt of a row with its responses and grades. ValueError says what is wrong."""
    if isinstance(row.get('prompt'), dict) and 'responses' in row:
        return _of_example(cast(Example, from_json(Example, row)))
    name = str(row.get('id', row.get('prompt_id', place)))
    if 'completion' in row and 'label' in row:
        if not isinstance(row['label'], (bool, int)) or row['label'] not in (0, 1):
            raise ValueError(f'label={row["label"]!r}: want true or false')
        messages, texts = _compared(row.get('prompt'), [row['completion']])
        return _prompt(name, messages, texts, [float(row['label'])])
    if 'chosen' not in row or 'rejected' not in row:
        raise ValueError(
            f'neither chosen and rejected, nor completion and label, nor responses; there are: '
            f'{", ".join(row)}'
        )
    messages, texts = _compared(row.get('prompt'), [row['chosen'], row['rejected']])
    if texts[0] == texts[1]:
        raise ValueError('the chosen and the rejected response are the same')
    return _prompt(name, messages, texts, _grades(row))


def _of_example(example: Example) -> Prompt:
    """The prompt of a training example, with all of its responses as they were sampled."""
    responses = example.responses
    grades = list(example.scores) or [1.0] + [0.0] * (len(responses) - 1)
    return with_given(example.prompt, responses, grades)


def _prompt(name: str, messages: list[dict], texts: list[str], grades: list[float]) -> Prompt:
    if not messages or messages[-1]['role'] != 'user' or not messages[-1]['content'].strip():
        raise ValueError('no user turn to answer, or an empty one')
    if not all(text.strip() for text in texts):
        raise ValueError('a response is empty')
    return Prompt(name, tuple(messages), None, {'responses': texts, 'grades': grades})


def _grades(row: dict) -> list[float]:
    """The scores of the chosen and the rejected response; 1 and 0 where there are none."""
    metadata = row.get('metadata')
    for fields in SCORE_FIELDS:
        for place in (row, metadata if isinstance(metadata, dict) else {}):
            scores = [place.get(field) for field in fields]
            if scores == [None, None]:
                continue
            shown = f'{fields[0]}={scores[0]!r}, {fields[1]}={scores[1]!r}'
            grades = [float(s) for s in scores if isinstance(s, (int, float))]
            if len(grades) < 2 or not grades[0] >= grades[1]:  # a nan fails too
                raise ValueError(f'{shown}: want two numbers, the first not the smaller')
            return grades
    return [1.0, 0.0]


def _compared(prompt, responses: list) -> tuple[list[dict], list[str]]:
    """(messages of the prompt, the text of each response), from any of the forms."""
    if all(isinstance(response, list) for response in responses):
        turns = [messages_of({'turns': response}, 'turns') for response in responses]
        if prompt is None:
            shared = _shared_turns(turns)
        else:
            shared = messages_of({'prompt': prompt}, 'prompt')
            if all(turn[: len(shared)] != shared for turn in turns):
                turns = [shared + turn for turn in turns]
        rests = [turn[len(shared) :] for turn in turns]
        if any(len(rest) != 1 or rest[0]['role'] != 'assistant' for rest in rests):
            raise ValueError('want one assistant turn in each response, after a shared prompt')
        return list(shared), [rest[0]['content'] for rest in rests]
    if not all(isinstance(response, str) for response in responses):
        raise ValueError('the responses are neither texts nor lists of messages')
    if prompt is not None:
        return messages_of({'prompt': prompt}, 'prompt'), responses
    if all(DIALOGUE_TURN.match(response) for response in responses):
        dialogues = [_dialogue(response) for response in responses]
        return _compared(None, dialogues)
    shared = os.path.commonprefix(responses)
    shared = shared[: shared.rfind(' ') + 1]
    texts = [response[len(shared) :].strip() for response in responses]
    return [{'role': 'user', 'content': shared.strip()}], texts


def _shared_turns(turns: list[list[dict]]) -> list[dict]:
    """The messages that all begin with."""
    shared = itertools.takewhile(lambda same: all(m == same[0] for m in same), zip(*turns))
    return [same[0] for same in shared]


def _dialogue(text: str) -> list[dict]:
    """The messages of a dialogue of Human and Assistant."""
    _, *pieces = DIALOGUE_TURN.split(text)
    return [
        {'role': ROLE_OF[speaker], 'content': said.strip()}
        for speaker, said in zip(pieces[::2], pieces[1::2])
    ]
