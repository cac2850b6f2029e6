"""Where prompts come from. Layer 5. The shelf's contract: (lm, params, key, *, …) -> [Prompt].

`key` is a JAX key of the seed and the turn; the same key gives the same prompts. Responses that come with a prompt
(demonstrations, ranked answers) ride in `meta['responses']`, their grades in `meta['grades']`.
"""

import collections
import dataclasses
import hashlib
import logging
import re

import jax
import numpy as np

import selfrew.tasks as builtin
from selfrew import generate, lm as lms, novelty, rows, text
from selfrew.tasks import published
from selfrew.types import Example, Prompt, ask, from_json


def _rng(key) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


# --- built-in tasks ---------------------------------------------------------------------------------------------------


def task(lm, params, key, *, tasks: tuple, n: int, split: str = 'train', answers: bool = False) -> list[Prompt]:
    """`n` new problems of built-in tasks, in turn.

    Args:
      tasks: names, see selfrew.tasks. split: 'train' or 'heldout'; they share no problem.
      answers: whether the prompts carry the truth. Without it nothing behind this point can see it.
    Raises KeyError for a task and ValueError for a split that does not exist.
    """
    del lm, params
    found = builtin.problems(tasks, n, _rng(key), split)
    return found if answers else [Prompt(p.id, p.messages, None, {'task': p.meta['task']}) for p in found]


def demonstrations(lm, params, key, *, tasks: tuple, n: int, lazy: bool = True) -> list[Prompt]:
    """`n` training problems, each with the response of a lazy demonstrator: seed data for following instructions (IFT).

    Args:
      lazy: or else a flawless solution, as a data set's gold ones are.
    Raises KeyError for a task that does not exist.
    """
    del lm, params
    rng = _rng(key)
    show = lambda p: builtin.demonstrate(p, rng) if lazy else _module(p).demonstrate(p, rng, 'none')  # noqa: E731
    return [
        Prompt(p.id, p.messages, None, {'task': p.meta['task'], 'responses': [show(p)]})
        for p in builtin.problems(tasks, n, rng)
    ]


def verdicts(lm, params, key, *, tasks: tuple, n: int, template: str = 'check') -> list[Prompt]:
    """`n` judge prompts over responses flawed in all ways, each with a worked verdict: seed data for judging (EFT).

    Args:
      template: of the judge's prompt; the one that scorers.judge is to use.
    Raises KeyError for a task, FileNotFoundError for a template that does not exist.
    """
    del lm, params
    rng, out = _rng(key), []
    for p in builtin.problems(tasks, n, rng):
        response = builtin.demonstrate(p, rng, evenly=True)
        asked = text.fill(template, prompt=p.text, response=response)
        out.append(ask(f'verdict/{p.id}', asked, task=p.meta['task'], responses=[_module(p).check(p, response)]))
    return out


def ranked(lm, params, key, *, tasks: tuple, n: int, responses: int = 4, split: str = 'heldout') -> list[Prompt]:
    """`n` problems with `responses` lazy demonstrators' answers each, not all of the same true grade: to test a judge.

    Raises KeyError for a task, ValueError for a split that does not exist or fewer than two responses.
    """
    del lm, params
    if responses < 2:
        raise ValueError(f'responses={responses}: want at least 2, to be ranked')
    rng, out = _rng(key), []
    for p in builtin.problems(tasks, n, rng, split):
        grades = []
        while len(set(grades)) < 2:
            given = [builtin.demonstrate(p, rng) for _ in range(responses)]
            grades = [_module(p).grade(p, g) for g in given]
        out.append(Prompt(p.id, p.messages, p.answer, p.meta | {'responses': given, 'grades': grades}))
    return out


def _module(prompt: Prompt):
    return builtin.get(prompt.meta['task'])


# --- the user's data --------------------------------------------------------------------------------------------------


def records(lm, params, key, *, source: str, n: int | None = None, prompt: str = 'prompt', answer: str = 'answer',
            max_bad: int = 10) -> list[Prompt]:  # fmt: skip
    """Prompts from a file or a data set; where there are more than `n`, `n` of them drawn without replacement.

    Args:
      source: a file of JSON lines or 'tfds:name/split', see rows.read.
      prompt: the field with the prompt: a string, or a list of chat messages, whose last assistant turn, if any, is
        taken as a given response. A row's field 'response' is one too. 'messages' is read where this field is missing.
      answer: the field with the truth, where there is one.
      max_bad: rows that may be malformed; they are skipped and reported. One more, and the source is refused.
    Raises FileNotFoundError, or ValueError for too many bad rows or none that is good.
    """
    del lm, params
    return _drawn(rows.read(source, _named(source, lambda id, row: _prompt(id, row, prompt, answer)), max_bad), n, source, key)


def problems(lm, params, key, *, source: str, form: str, n: int | None = None, template: str | None = None,
             shots: str | None = None, shown: int = 4, answers: bool = True, max_bad: int = 10) -> list[Prompt]:  # fmt: skip
    """Problems of a published set, with its verdict; where there are more than `n`, `n` of them without replacement.

    Args:
      source: see rows.read. form: how its rows are read and its answers judged: gsm8k, math (by math-verify, an extra),
        arc, svamp, mawps or asdiv.
      template: a jinja file with {{ question }}, and what it wants of {{ options }} (texts) and {{ shots }} (each with
        .question, .solution, .answer); None: the one of the form that ships, with the published output format.
      shots: a source of the same form, whose first `shown` problems are shown solved in each prompt; they are not asked.
      answers: whether prompts carry the truth, and the set's own solution as a given response. Without it nothing behind
        this point can see them.
      max_bad: see `records`.
    Raises KeyError for a form that does not exist, else as `records` does.
    """
    del lm, params
    examples = rows.read(shots, lambda _, row: published.read(form, row), max_bad)[:shown] if shots else []
    solved = {example.question for example in examples}

    def make(_, row):
        problem = published.read(form, row)
        if problem.question in solved:
            return None
        asked = text.fill(template or published.get(form).template, question=problem.question, options=problem.options,
                          shots=examples)  # fmt: skip
        digest = hashlib.sha1(asked.encode()).hexdigest()[:12]
        given = {'responses': [problem.solution]} if answers and problem.solution else {}
        return ask(f'{form}/{digest}', asked, problem.answer if answers else None, task=form, **given)

    return _drawn(rows.read(source, _named(source, make), max_bad), n, source, key)


PARTS = 'ift', 'eft', 'heldout'


def check_part(part: str) -> None:
    """ValueError where `trees` has no such part."""
    if part not in PARTS:
        raise ValueError(f'no part {part!r}; there are: {", ".join(PARTS)}')


def trees(lm, params, key, *, source: str, part: str, n: int | None = None, lang: str = 'en',
          max_bad: int = 10) -> list[Prompt]:  # fmt: skip
    """The first turns of conversation trees whose answers people have ranked, in OpenAssistant's format.

    Args:
      source: see rows.read; a row is a tree, {'prompt': {'text', 'role', 'lang', 'replies': [{'text', 'rank', …}]}}.
      part: 'ift', each with its best answer, to imitate (arXiv 2401.10020, §3.1); 'eft', with two answers or more and
        their grades, to make verdicts from (see pairs.agreeing); 'heldout', the same, to test a judge. A prompt is in one
        of them, by a hash of its text: 7, 2 and 1 in ten.
      n: so many without replacement. lang: of prompts and answers. max_bad: see `records`.
    A grade is minus the rank, so that more is better. What was deleted, or did not pass review, is not there.
    Raises as `records` does.
    """
    del lm, params
    check_part(part)

    def make(_, row):
        root = row.get('prompt')
        if not isinstance(root, dict) or not isinstance(root.get('text'), str):
            raise ValueError('no tree: want a prompt with a text and replies')
        fine = lambda m: (  # noqa: E731
            m.get('lang') == lang and not m.get('deleted') and m.get('review_result') is not False and m['text'].strip()
        )
        place = hashlib.sha1(root['text'].encode()).digest()[0] % 10
        if ('heldout' if place == 0 else 'eft' if place < 3 else 'ift') != part or not fine(root):
            return None
        answers = sorted((m for m in root.get('replies', ()) if m.get('rank') is not None and fine(m)),
                         key=lambda m: m['rank'])  # fmt: skip
        name = str(row.get('message_tree_id', hashlib.sha1(root['text'].encode()).hexdigest()[:12]))
        if part == 'ift':
            best = [m['text'] for m in answers if m['rank'] == 0]
            return ask(name, root['text'], responses=best[:1]) if best else None
        given, grades = [m['text'] for m in answers], [-float(m['rank']) for m in answers]
        return ask(name, root['text'], responses=given, grades=grades) if len(set(grades)) > 1 else None

    return _drawn(rows.read(source, _named(source, make), max_bad), n, source, key)


def examples(lm, params, key, *, source: str, n: int | None = None) -> list[Prompt]:
    """What another run has made to learn from (its rounds/…/examples.jsonl), each with its best response as given.

    Raises as `records` does, without patience for bad rows.
    """
    del lm, params

    def make(_, row):
        example = from_json(Example, row)
        return dataclasses.replace(example.prompt, meta={'responses': [example.responses[0].text]})

    return _drawn(rows.read(source, _named(source, make), 0), n, source, key)


# --- the model's own responses, and ideas -----------------------------------------------------------------------------


def judged(lm, params, key, *, prompts, sampler, template: str = 'additive') -> list[Prompt]:
    """Judge prompts over the model's own responses: what a turn that learns to judge is asked (arXiv 2407.19594, §2.2).

    Args:
      prompts, sampler: entries of those shelves; of responses with the same text, one is judged.
      template: a judge's, see scorers.judge.
    `meta` has 'judged', the prompt's id, and 'points', the range of a score.
    """
    k_prompts, k_sampler = jax.random.split(key)
    points, out = text.points(template), []
    for r in sampler(lm, params, prompts(lm, params, k_prompts), k_sampler):
        found = [a.text for a in r.responses]
        for i in sorted(map(found.index, set(found))):
            asked = text.fill(template, prompt=r.prompt.text, response=found[i])
            out.append(ask(f'judge/{r.prompt.id}/{i}', asked, judged=r.prompt.id, points=list(points)))
    return out


def crossed(lm, params, key, *, prompts, sampler) -> list[Prompt]:
    """Prompts with the model's own responses, of grade 1, and one that it gave to another of them, of grade 0.

    What a judge should tell apart, though nobody knows which response is right: to learn judging from without truth (see
    pairs.agreeing). Self-Taught Evaluators (arXiv 2408.02666, §3.2) have the worse response answer an instruction that the
    model has changed; here it answers another one.

    Args:
      prompts, sampler: entries of those shelves: what is asked, and how it is answered.
    Raises ValueError for fewer than two prompts.
    """
    k_prompts, k_sampler, k_cross = jax.random.split(key, 3)
    found = sampler(lm, params, prompts(lm, params, k_prompts), k_sampler)
    if len(found) < 2:
        raise ValueError(f'{len(found)} prompts to answer: want at least two, to cross their responses')
    order, out = _rng(k_cross).permutation(len(found)), []
    other = {here: found[there] for here, there in zip(order, np.roll(order, 1))}  # never a prompt's own
    for i, r in enumerate(found):
        given = [a.text for a in r.responses] + [other[i].responses[0].text]
        meta = r.prompt.meta | {'responses': given, 'grades': [1.0] * len(r.responses) + [0.0]}
        out.append(dataclasses.replace(r.prompt, meta=meta))
    return out


NUMBERED = re.compile(r'(?:^|\n)\s*\d+\s*[.)]\s*')


def self_instruct(lm, params, key, *, prompts, n: int, template: str = 'instruct', generator: str | None = None,
                  dtype: str = 'float32', stored: str = 'float32', max_length: int | None = None, seeds: int = 6,
                  own: int = 2, similarity: float = 0.7, temperature: float = 0.6, top_k: int = 0, top_p: float = 0.9,
                  min_p: float = 0.0, max_tokens: int = 1024, batch: int = 64, tries: int = 100,
                  slots: int | None = None) -> list[Prompt]:  # fmt: skip
    """`n` new instructions in the manner of given ones (Self-Instruct, arXiv 2212.10560; 2401.10020, §2.3).

    Each request shows a few instructions in random order, and the model goes on with the list. What it adds is kept if it
    passes the filters (see novelty) and is not too like any that is there.

    Args:
      prompts: an entry of this shelf, the seeds.
      template: a jinja file with {{ tasks }}, a list of texts, or one that ships.
      generator: the folder or hub name of a fixed model that is asked, read anew each time and not kept; None: the model
        that is trained. dtype, stored, max_length: of that model, see lm.load.
      seeds, own: how many of either are shown; seeds stand in for its own while there are too few.
      similarity: ROUGE-L (F1, of words) above which an instruction is too like another one.
      temperature, top_k, top_p, min_p, max_tokens, slots: see samplers.sample.
      batch: requests between two looks at what came of them. tries: batches after which it is given up.
    Raises ValueError where there are fewer seeds than are shown, or so many tries do not give n instructions.
    """
    known = [p.text for p in prompts(lm, params, jax.random.fold_in(key, 0))]
    if len(known) < seeds + own:
        raise ValueError(f'{len(known)} seed instructions: want at least {seeds + own} to show in a request')
    if generator is not None:
        lm, params = lms.load(folder=generator, **lm.mesh.shape, dtype=dtype, params=stored, max_length=max_length)
    rng, first = _rng(key), len(known)
    heard, dropped = [novelty.words(text) for text in known], collections.Counter()
    for attempt in range(tries):
        if len(known) - first >= n:
            break
        shown = [_shown(known, first, seeds, own, rng) for _ in range(batch)]
        asked = [lm.text.prompt(ask('', text.fill(template, tasks=some))) for some in shown]
        fitting = [i for i, tokens in enumerate(asked) if len(tokens) + max_tokens <= lm.config.max_length]
        dropped['too_long'] += batch - len(fitting)
        keys = generate.request_keys(key, [f'self_instruct/{attempt}'] * len(fitting), fitting)
        for response in generate.generate(
            lm, params, [asked[i] for i in fitting], keys, max_tokens=max_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, min_p=min_p, slots=slots, title='self-instruct',
        ):  # fmt: skip
            for instruction in _listed(response):
                new = novelty.words(instruction)
                wrong = novelty.fault(instruction) or (novelty.similar(new, heard, similarity) and 'similar') or None
                dropped[wrong or 'kept'] += 1
                if wrong is None:
                    known.append(instruction)
                    heard.append(new)
    logging.info('self-instruct: %s', dict(dropped))
    if len(known) - first < n:
        raise ValueError(f'{tries} batches of {batch} requests gave {len(known) - first} instructions of {n}: {dict(dropped)}')
    name = lambda said: hashlib.sha1(said.encode()).hexdigest()[:12]  # noqa: E731
    return [ask(f'self_instruct/{name(said)}', said) for said in known[first : first + n]]


def _shown(known: list[str], first: int, seeds: int, own: int, rng) -> list[str]:
    """What one request shows: of the first ones, the seeds, and of what was made up since."""
    mine = min(own, len(known) - first)
    some = list(rng.choice(first, seeds + own - mine, replace=False))
    some += list(first + rng.choice(len(known) - first, mine, replace=False)) if mine else []
    return [' '.join(known[i].split()) for i in rng.permutation(some)]


def _listed(response) -> list[str]:
    """The instructions of a list that goes on; a last one that was cut is not one, nor is what leads over to a list."""
    found = NUMBERED.split(response.text)
    if response.finish == 'length':
        found = found[:-1]
    return [' '.join(one.split()) for one in found if one.strip() and not one.rstrip().endswith(':')]


def _named(source: str, make):
    """`make` for rows.read, each prompt under an id of its own: what is drawn for a prompt hangs on its id."""
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
    return [found[i] for i in sorted(_rng(key).choice(len(found), n, replace=False))]


def _prompt(id: str, row, prompt: str, answer: str) -> Prompt:
    """A row as a prompt. ValueError says what is wrong with it."""
    asked = row.get(prompt, row.get('messages'))
    if asked is None:
        raise ValueError(f'no field {prompt!r} and no messages; there are: {", ".join(map(str, row))}')
    if isinstance(asked, str):
        asked = [{'role': 'user', 'content': asked}]
    if not isinstance(asked, list) or not all(
        isinstance(m, dict) and isinstance(m.get('content'), str) and m.get('role') in ('system', 'user', 'assistant')
        for m in asked
    ):
        raise ValueError(f'{prompt!r} is neither a string nor a list of messages with role and content')
    messages = [{'role': m['role'], 'content': m['content']} for m in asked]
    given = [row['response']] if 'response' in row else []
    if messages and messages[-1]['role'] == 'assistant':
        given = [messages.pop()['content']]
    if not all(isinstance(g, str) and g.strip() for g in given):
        raise ValueError('the given response is not a text')
    if not messages or messages[-1]['role'] != 'user' or not messages[-1]['content'].strip():
        raise ValueError('no user turn to answer, or an empty one')
    return Prompt(str(row.get('id', id)), tuple(messages), row.get(answer), {'responses': given} if given else {})


def mixture(lm, params, key, *, prompts: tuple) -> list[Prompt]:
    """All prompts of several sources, one after the other. Each is an entry of this shelf."""
    return [p for i, part in enumerate(prompts) for p in part(lm, params, jax.random.fold_in(key, i))]
