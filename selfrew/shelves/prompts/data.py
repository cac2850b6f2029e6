"""Prompts from the user's files and from published data sets."""

import dataclasses
import hashlib

from selfrew.mesh import keys
from selfrew.tasks import published, templates
from selfrew.tasks.records import read_records
from selfrew.types import Example, Prompt, ask, from_json

# --- the user's data --------------------------------------------------------------------------------------------------


def records(
    lm,
    params,
    key,
    *,
    source: str,
    n: int | None = None,
    prompt: str = 'prompt',
    answer: str = 'answer',
    max_bad: int = 10,
) -> list[Prompt]:
    """Prompts from a file or a data set; where there are more than `n`, `n` of them drawn without
    replacement.

    Args:
      source: a file of JSON lines or 'tfds:name/split', see records.read_records.
      prompt: the field with the prompt: a string, or a list of chat messages, whose last assistant
        turn, if any, is taken as a given response. A row's field 'response' is one too. 'messages'
        is read where this field is missing.
      answer: the field with the truth, where there is one.
      max_bad: rows that may be malformed; they are skipped and reported. One more, and the source
        is refused.
    Raises FileNotFoundError, or ValueError for too many bad rows or none that is good.
    """
    del lm, params
    return _drawn(
        read_records(
            source, _named(source, lambda id, row: _prompt(id, row, prompt, answer)), max_bad
        ),
        n,
        source,
        key,
    )


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
    max_bad: int = 10,
) -> list[Prompt]:
    """Problems of a published set, with its verdict; where there are more than `n`, `n` of them
    without replacement.

    Args:
      source: see records.read_records. form: how its rows are read and its answers judged: gsm8k,
        math (by math-verify, an extra), arc, svamp, mawps or asdiv.
      template: a jinja file with {{ question }}, and what it wants of {{ options }} (texts) and {{
        shots }} (each with .question, .solution, .answer); None: the one of the form that ships,
        with the published output format.
      shots: a source of the same form, whose first `shown` problems are shown solved in each
        prompt; they are not asked.
      answers: whether prompts carry the truth, and the set's own solution as a given response.
        Without it nothing behind this point can see them.
      max_bad: see `records`.
    Raises KeyError for a form that does not exist, else as `records` does.
    """
    del lm, params
    examples = (
        read_records(shots, lambda _, row: published.read(form, row), max_bad)[:shown]
        if shots
        else []
    )
    solved = {example.question for example in examples}

    def make(_, row):
        problem = published.read(form, row)
        if problem.question in solved:
            return None
        asked = templates.render(
            template or published.get(form).template,
            question=problem.question,
            options=problem.options,
            shots=examples,
        )
        digest = hashlib.sha1(asked.encode()).hexdigest()[:12]
        given = {'responses': [problem.solution]} if answers and problem.solution else {}
        return ask(
            f'{form}/{digest}', asked, problem.answer if answers else None, task=form, **given
        )

    return _drawn(read_records(source, _named(source, make), max_bad), n, source, key)


PARTS = 'ift', 'eft', 'heldout'


def check_part(part: str) -> None:
    """ValueError where `trees` has no such part."""
    if part not in PARTS:
        raise ValueError(f'no part {part!r}; there are: {", ".join(PARTS)}')


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
) -> list[Prompt]:
    """The first turns of conversation trees whose answers people have ranked, in OpenAssistant's
    format.

    Args:
      source: see records.read_records; a row is a tree, {'prompt': {'text', 'role', 'lang',
        'replies': [{'text', 'rank', …}]}}.
      part: 'ift', each with its best answer, to imitate (arXiv 2401.10020, §3.1); 'eft', with two
        answers or more and their grades, to make verdicts from (see pairs.agreeing); 'heldout', the
        same, to test a judge. A prompt is in one of them, by a hash of its text: 7, 2 and 1 in ten.
      n: so many without replacement. lang: of prompts and answers. max_bad: see `records`.
    A grade is minus the rank, so that more is better. What was deleted, or did not pass review, is
    not there.
    Raises as `records` does.
    """
    del lm, params
    check_part(part)

    def make(_, row):
        root = row.get('prompt')
        if not isinstance(root, dict) or not isinstance(root.get('text'), str):
            raise ValueError('no tree: want a prompt with a text and replies')
        fine = lambda m: (
            m.get('lang') == lang
            and not m.get('deleted')
            and m.get('review_result') is not False
            and m['text'].strip()
        )
        place = hashlib.sha1(root['text'].encode()).digest()[0] % 10
        if ('heldout' if place == 0 else 'eft' if place < 3 else 'ift') != part or not fine(root):
            return None
        answers = sorted(
            (m for m in root.get('replies', ()) if m.get('rank') is not None and fine(m)),
            key=lambda m: m['rank'],
        )
        name = str(row.get('message_tree_id', hashlib.sha1(root['text'].encode()).hexdigest()[:12]))
        if part == 'ift':
            best = [m['text'] for m in answers if m['rank'] == 0]
            return ask(name, root['text'], responses=best[:1]) if best else None
        given, grades = [m['text'] for m in answers], [-float(m['rank']) for m in answers]
        return (
            ask(name, root['text'], responses=given, grades=grades)
            if len(set(grades)) > 1
            else None
        )

    return _drawn(read_records(source, _named(source, make), max_bad), n, source, key)


def examples(lm, params, key, *, source: str, n: int | None = None) -> list[Prompt]:
    """What another run has made to learn from (its rounds/…/examples.jsonl), each with its best
    response as given.

    Raises as `records` does, without patience for bad rows.
    """
    del lm, params

    def make(_, row):
        example = from_json(Example, row)
        return dataclasses.replace(example.prompt, meta={'responses': [example.responses[0].text]})

    return _drawn(read_records(source, _named(source, make), 0), n, source, key)


def _named(source: str, make):
    """`make` for records.read, each prompt under an id of its own: what is drawn for a prompt hangs
    on its id.
    """
    ids = set()

    def one(where, row):
        try:
            read = make(f'{source}:{where}', row)
        except (KeyError, TypeError, AttributeError, IndexError) as problem:
            raise ValueError(f'not such a row: {type(problem).__name__} {problem}') from None
        if read is None:
            return None
        for written in [m['content'] for m in read.messages] + read.meta.get('responses', []):
            written.encode()  # half a surrogate pair is a UnicodeEncodeError, which is a ValueError
        if read.id in ids:
            read = dataclasses.replace(read, id=f'{read.id} ({where})')
        ids.add(read.id)
        return read

    return one


def _drawn(found: list, n: int | None, source: str, key) -> list:
    """`n` of them without replacement, in their order, or all where there are no more."""
    if n is not None and n < 1:
        raise ValueError(f'n={n} prompts of {source}: want at least 1, or None for all')
    if n is None or n >= len(found):
        return found
    return [found[i] for i in sorted(keys.numpy_rng(key).choice(len(found), n, replace=False))]


def _prompt(id: str, row, prompt: str, answer: str) -> Prompt:
    """A row as a prompt. ValueError says what is wrong with it."""
    asked = row.get(prompt, row.get('messages'))
    if asked is None:
        raise ValueError(
            f'no field {prompt!r} and no messages; there are: {", ".join(map(str, row))}'
        )
    if isinstance(asked, str):
        asked = [{'role': 'user', 'content': asked}]
    if not isinstance(asked, list) or not all(
        isinstance(m, dict)
        and isinstance(m.get('content'), str)
        and m.get('role') in ('system', 'user', 'assistant')
        for m in asked
    ):
        raise ValueError(
            f'{prompt!r} is neither a string nor a list of messages with role and content'
        )
    messages = [{'role': m['role'], 'content': m['content']} for m in asked]
    given = [row['response']] if 'response' in row else []
    if messages and messages[-1]['role'] == 'assistant':
        given = [messages.pop()['content']]
    if not all(isinstance(g, str) and g.strip() for g in given):
        raise ValueError('the given response is not a text')
    if not messages or messages[-1]['role'] != 'user' or not messages[-1]['content'].strip():
        raise ValueError('no user turn to answer, or an empty one')
    return Prompt(
        str(row.get('id', id)),
        tuple(messages),
        row.get(answer),
        {'responses': given} if given else {},
    )
