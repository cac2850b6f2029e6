"""Prompts from the user's files and from published data sets."""

import dataclasses
import types
from typing import cast

from selfrew.shelves.prompts.rows import (
    draw,
    in_portions,
    is_on_side,
    messages_of,
    read_prompts,
    with_given,
)
from selfrew.tasks import published, templates
from selfrew.tasks.hashing import hash_digit, short_id
from selfrew.tasks.records import read_records
from selfrew.types import Example, Judgement, Prompt, from_json, user_prompt

# What a template of `problems` is checked with.
SHOT = types.SimpleNamespace(question='q', solution='s', answer='a')


@in_portions
def records(
    lm,
    params,
    key,
    *,
    source: str,
    n: int | None = None,
    prompt: str = 'prompt',
    answer: str = 'answer',
    split: str | None = None,
    heldout: float = 0.05,
    max_bad: int = 10,
    portion: int = 1,
    portions: int = 1,
) -> list[Prompt]:
    """Prompts from a file or a data set.

    Args:
      source: a file of JSON lines or 'tfds:name/split', see tasks.records.read_records.
      n: draw this many without replacement; None, or more than there are: all.
      prompt: the field with the prompt: a string, or a list of chat messages. Where it is missing,
        the field 'messages' is read. A last assistant turn is a given response, as is the field
        'response'.
      answer: the field with the truth, which may be missing: a text, a number, or a list of
        accepted answers.
      split: 'train' or 'heldout': the rows on that side; None: all. The text of the first user turn
        alone decides, so that near-copies lie on one side, also those of other files; see
        tasks.splitting.split_key. Prompts that all open with the same instruction lie on one side.
      heldout: the share of the distinct topics that is held out; that of the rows is about the
        same, the more topics the closer.
      max_bad: malformed rows that are skipped and logged; one more, and the source is refused.
      portion, portions: the portion, from 1, of so many disjoint ones, in the order of the rows;
        with by_round={'prompts': {'portion': (1, 2, 3)}} each round has its own.
    Raises FileNotFoundError, or ValueError for an unknown split, too many malformed rows or no good
    one.
    """
    del params

    def read_row(place: str, row: dict) -> Prompt | None:
        made = _prompt_of(row, place, prompt, answer)
        asked = next(m['content'] for m in made.messages if m['role'] == 'user')
        return made if is_on_side(asked, split, heldout) else None

    made = read_prompts(lm, source, read_row, max_bad)
    return draw(made, n, source, key, portion=portion, portions=portions)


@templates.shows('question', question='q', options=['o'], shots=[SHOT])
@in_portions
def problems(
    lm,
    params,
    key,
    *,
    source: str,
    form: str,
    n: int | None = None,
    template: str | None = None,
    shots: str | None = None,
    shown: int = 4,
    answers: bool = True,
    split: str | None = None,
    heldout: float = 0.05,
    max_bad: int = 10,
    portion: int = 1,
    portions: int = 1,
) -> list[Prompt]:
    """Problems of a published set, judged as the set defines it.

    Args:
      source, n, max_bad, portion, portions: see `records`.
      form: how rows are read and answers judged: gsm8k, math, arc, svamp, mawps or asdiv.
      template: a jinja file that reads {{ question }} and, if needed, {{ options }} (texts) and
        {{ shots }} (each with .question, .solution, .answer); None: the form's own, which asks for
        the published output format.
      shots: a source of the same form. Each prompt shows its first `shown` problems with their
        solutions; these are not asked.
      answers: whether prompts carry the truth, and the set's solution as a given response. Without
        it, no later part can see either.
      split, heldout: as in `records`, by the question. With a split, what is shown is on the side
        of training.
    Raises KeyError for an unknown form, else as `records` does.
    """
    del params
    shot_problems = []
    if shots:
        shot_problems = read_records(shots, lambda _, row: published.read(form, row), max_bad)
        shown_side = split and 'train'
        shot_problems = [p for p in shot_problems if is_on_side(p.question, shown_side, heldout)]
        shot_problems = shot_problems[:shown]
    shot_questions = {problem.question for problem in shot_problems}
    template_name = template or published.get(form).template

    def read_row(place: str, row: dict) -> Prompt | None:
        del place
        problem = published.read(form, row)
        question, options = problem.question, problem.options
        if question in shot_questions or not is_on_side(question, split, heldout):
            return None
        fields = {'question': question, 'options': options, 'shots': shot_problems}
        text = templates.render(template_name, **fields)
        name = f'{form}/{short_id(text)}'
        shown_options = {'options': list(options)} if options else {}
        if not answers:
            return user_prompt(name, text, task=form, **shown_options)
        meta = {'responses': [problem.solution]} if problem.solution else {}
        meta |= shown_options
        return user_prompt(name, text, problem.answer, task=form, **meta)

    made = read_prompts(lm, source, read_row, max_bad)
    return draw(made, n, source, key, portion=portion, portions=portions)


PARTS = 'ift', 'eft', 'heldout'


def check_part(part: str) -> None:
    """Raises ValueError for a part that `trees` does not have."""
    if part not in PARTS:
        raise ValueError(f'no part {part!r}; there are: {", ".join(PARTS)}')


@in_portions
def trees(
    lm,
    params,
    key,
    *,
    source: str,
    part: str,
    n: int | None = None,
    lang: str = 'en',
    max_bad: int = 10,
    portion: int = 1,
    portions: int = 1,
) -> list[Prompt]:
    """The first turns of conversation trees with answers ranked by people, in OpenAssistant's
    format.

    A grade is minus the rank, so that more is better. Messages that were deleted or did not pass
    review are left out.

    Args:
      source: see tasks.records.read_records; a row is a tree, {'prompt': {'text', 'role', 'lang',
        'replies': [{'text', 'rank', …}]}}.
      part: 'ift': prompts with their best answer, to imitate (arXiv 2401.10020, §3.1); 'eft':
        prompts with at least two answers and their grades, to make verdicts from (see
        pairs.agreeing); 'heldout': the same, to test a judge. A hash of its text puts each prompt
        in one part; the shares are 7, 2 and 1 in ten.
      lang: of prompts and answers. n, max_bad, portion, portions: see `records`.
    Raises ValueError for an unknown part, else as `records` does.
    """
    del params
    check_part(part)

    def read_row(place: str, row: dict) -> Prompt | None:
        del place
        root = row.get('prompt')
        if not isinstance(root, dict) or not isinstance(root.get('text'), str):
            raise ValueError('not a tree: want a prompt with a text and replies')
        if _part_of(root['text']) != part or not _is_usable(root, lang):
            return None
        return _prompt_with_ranked_answers(row, best_only=part == 'ift', lang=lang)

    made = read_prompts(lm, source, read_row, max_bad)
    return draw(made, n, source, key, portion=portion, portions=portions)


@in_portions
def examples(
    lm,
    params,
    key,
    *,
    source: str,
    n: int | None = None,
    portion: int = 1,
    portions: int = 1,
) -> list[Prompt]:
    """The prompts of another run's training examples (its rounds/…/examples.jsonl), each with its
    best response.

    Args:
      source, n, portion, portions: see `records`.
    Raises as `records` does; no row may be malformed.
    """
    del params

    def read_row(place: str, row: dict) -> Prompt:
        del place
        example = cast(Example, from_json(Example, row))
        return dataclasses.replace(example.prompt, meta={'responses': [example.responses[0].text]})

    made = read_prompts(lm, source, read_row, 0)
    return draw(made, n, source, key, portion=portion, portions=portions)


@in_portions
def judgements(
    lm,
    params,
    key,
    *,
    source: str,
    n: int | None = None,
    portion: int = 1,
    portions: int = 1,
) -> list[Prompt]:
    """The prompts of a turn's judgements (its rounds/…/judgements.jsonl, of this run or another),
    each with all of its responses, as they were sampled, and their scores as grades.

    With sampler, scorer `given` and any pair rule, these are pairs of an earlier turn. Their
    responses are not the present model's; log-probabilities of the model that sampled them are left
    out.

    Args:
      source, n, portion, portions: see `records`.
    Raises as `records` does; no row may be malformed.
    """
    del params

    def read_row(place: str, row: dict) -> Prompt:
        del place
        judgement = cast(Judgement, from_json(Judgement, row))
        rollout = judgement.rollout
        return with_given(rollout.prompt, rollout.responses, judgement.scores)

    made = read_prompts(lm, source, read_row, 0)
    return draw(made, n, source, key, portion=portion, portions=portions)


def _prompt_of(row: dict, place: str, prompt_field: str, answer_field: str) -> Prompt:
    """The prompt in a row of `records`. ValueError says what is wrong with the row."""
    if {'chosen', 'rejected'} <= set(row):
        raise ValueError("a row with chosen and rejected is a pair: prompts.name='preferences'")
    messages = messages_of(row, prompt_field)
    responses = [row['response']] if 'response' in row else []
    if messages and messages[-1]['role'] == 'assistant':
        responses = [messages.pop()['content']]
    if not all(isinstance(response, str) and response.strip() for response in responses):
        raise ValueError('the given response is empty or not a text')
    if not messages or messages[-1]['role'] != 'user' or not messages[-1]['content'].strip():
        raise ValueError('no user turn to answer, or an empty one')
    answer = row.get(answer_field)
    accepted = answer if isinstance(answer, list) else [answer]
    is_known = all(isinstance(a, (str, int, float, type(None))) for a in accepted)
    if answer == [] or not is_known or any(a != a for a in accepted):  # nan
        raise ValueError(f'{answer_field}={answer!r}: want a text, a number or a list of these')
    meta = {'responses': responses} if responses else {}
    return Prompt(str(row.get('id', place)), tuple(messages), answer, meta)


# --- conversation trees ---


def _part_of(text: str) -> str:
    """The part of the data that a tree belongs to, by the text of its prompt."""
    digit = hash_digit(text)
    if digit == 0:
        return 'heldout'
    return 'eft' if digit < 3 else 'ift'


def _is_usable(message: dict, lang: str) -> bool:
    """Whether a message is in the language, not deleted, not rejected in review and not empty."""
    return (
        message.get('lang') == lang
        and not message.get('deleted')
        and message.get('review_result') is not False
        and bool(message['text'].strip())
    )


def _prompt_with_ranked_answers(tree: dict, *, best_only: bool, lang: str) -> Prompt | None:
    """A tree's prompt with its best answer, or with all ranked answers and their grades.

    None if it has no best answer, or no two grades.
    """
    root = tree['prompt']
    answers = [
        reply
        for reply in root.get('replies', ())
        if reply.get('rank') is not None and _is_usable(reply, lang)
    ]
    answers.sort(key=lambda reply: reply['rank'])
    name = str(tree.get('message_tree_id', short_id(root['text'])))
    if best_only:
        best = [answer['text'] for answer in answers if answer['rank'] == 0]
        return user_prompt(name, root['text'], responses=best[:1]) if best else None
    texts = [answer['text'] for answer in answers]
    grades = [-float(answer['rank']) for answer in answers]
    if len(set(grades)) < 2:
        return None
    return user_prompt(name, root['text'], responses=texts, grades=grades)
