"""Makes the tiny base that ships with the package: its tokenizer and its weights.

    python -m experiments.tiny_base.run --folder=selfrew/models/tiny_base

Everything is generated: problems of the built-in tasks' training split, answered by lazy
demonstrators, and worked verdicts on such answers. Prints the totals of the training.
"""

import functools
import json
import os
import tempfile
import time

import jax
import numpy as np
from absl import app, flags
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from selfrew import tasks
from selfrew.engine import trainer
from selfrew.models import decoder, hf, language_model, text as text_module
from selfrew.models.config import ModelConfig
from selfrew.shelves import losses, optimizers
from selfrew.tasks import templates
from selfrew.types import Example, Response, State, user_prompt

FOLDER = flags.DEFINE_string('folder', None, 'Where the Hugging Face folder goes.', required=True)
DOCUMENTS = flags.DEFINE_integer('documents', 120_000, 'Texts to train on, each seen once.')
SEED = flags.DEFINE_integer(
    'seed', 0, 'Of the texts and of the weights.', lower_bound=0, upper_bound=2**32 - 1
)

BOS, USER, ASSISTANT, END, PAD = '<|bos|>', '<|user|>', '<|assistant|>', '<|end|>', '<|pad|>'
CHAT = (
    '{{ bos_token }}{% for m in messages %}'
    "{% if m.role == 'assistant' %}<|assistant|>{{ m.content }}<|end|>"
    '{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}'
    '{% if add_generation_prompt %}<|assistant|>{% endif %}'
)
MAX_LENGTH = 512  # tokens
RECENT = 200  # updates whose mean loss is reported


def documents(count: int, rng) -> list[Example]:
    """Problems answered by lazy demonstrators; every second one has a verdict on such an answer
    instead.
    """
    examples = []
    for i, prompt in enumerate(tasks.problems(list(tasks.TASKS), count, rng)):
        is_verdict = i // len(tasks.TASKS) % 2 == 1
        response = tasks.demonstrate(prompt, rng, has_even_flaws=is_verdict)
        if is_verdict:
            verdict = tasks.get(prompt.meta['task']).worked_verdict(prompt, response)
            question = templates.render('check', prompt=prompt.text, response=response)
            prompt, response = user_prompt(f'verdict/{prompt.id}', question), verdict
        examples.append(Example(prompt, (Response(response),)))
    return examples


def words_of_the_tasks(split, rng) -> list[str]:
    """The words of many problems, answers and verdicts, in the order of their first use."""
    with open(os.path.join(templates.TEMPLATES, 'check.jinja')) as file:
        texts = [file.read()]
    for prompt in tasks.problems(list(tasks.TASKS), 8000, rng):
        response = tasks.demonstrate(prompt, rng)
        verdict = tasks.get(prompt.meta['task']).worked_verdict(prompt, response)
        texts += [prompt.text, response, verdict]
    texts += [f'{n} {n}' for n in range(tasks.word_problems.LARGEST + 1)]
    return list(dict.fromkeys(word for text in texts for word, _ in split.pre_tokenize_str(text)))


def write_tokenizer(folder: str, rng) -> int:
    """Writes the tokenizer and chat template; returns the size of the vocabulary.

    It works on bytes. Every word of the tasks is one token; other text becomes a token a byte.
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = [PAD, BOS, USER, ASSISTANT, END]
    vocabulary = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary += [word for word in words_of_the_tasks(split, rng) if word not in vocabulary]
    # ignore_merges: a word of the vocabulary is one token. There are no merges, so other words
    # become bytes.
    bpe = models.BPE({word: i for i, word in enumerate(vocabulary)}, [], ignore_merges=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    os.makedirs(folder, exist_ok=True)
    tokenizer.save(os.path.join(folder, 'tokenizer.json'))
    settings = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': BOS,
        'eos_token': END,
        'pad_token': PAD,
        'model_max_length': MAX_LENGTH,
        'clean_up_tokenization_spaces': False,
    }
    with open(os.path.join(folder, 'tokenizer_config.json'), 'w') as file:
        json.dump(settings, file, indent=2)
        file.write('\n')
    with open(os.path.join(folder, 'chat_template.jinja'), 'w') as file:
        file.write(CHAT)
    return len(vocabulary)


def train(lm, params, rng) -> tuple[State, dict]:
    """Trains on the documents; (state, totals), 'nll' being the mean over the last updates."""
    start, losses_seen = time.time(), []

    def report(step, metrics):
        losses_seen.append(metrics['nll'])
        if step % RECENT == 0:
            loss, seconds = np.mean(losses_seen[-RECENT:]), time.time() - start
            print(f'step {step} nll {loss:.4f} {seconds:.0f} s', flush=True)

    state, totals = trainer.train(
        lm,
        State(params, None, 0, 0),
        documents(DOCUMENTS.value, rng),
        jax.random.key(SEED.value),
        losses.sft,
        report,
        optimizer=functools.partial(optimizers.adamw, weight_decay=0.01),
        lr=3e-3,
        batch=64,
        row_length=256,
        warmup=0.02,
        schedule='cosine',
        final=0.02,
    )
    nll = float(np.mean(losses_seen[-RECENT:]))
    return state, totals | {'nll': nll, 'seconds': time.time() - start}


def main(_):
    rng = np.random.default_rng(SEED.value)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = write_tokenizer(folder, rng)
        config = ModelConfig(
            vocab=vocabulary,
            width=96,
            layers=3,
            heads=3,
            kv_heads=1,
            head_dim=32,
            mlp=288,
            max_length=MAX_LENGTH,
        )
        params = decoder.init_params(decoder.make_module(config), jax.random.key(SEED.value))
        text = text_module.load(folder)
        assert text.bos is not None  # see write_tokenizer
        fields = hf.llama_fields(config, bos=text.bos, eos=text.eos, pad=text.pad)
        hf.write(folder, fields, config, params)
        lm, params = language_model.load(folder=folder)
        print(f'{vocabulary} tokens, {sum(x.size for x in jax.tree.leaves(params)):,} parameters')
        state, totals = train(lm, params, rng)
    write_tokenizer(FOLDER.value, np.random.default_rng(SEED.value))
    hf.write(FOLDER.value, fields, config, state.params)
    print(json.dumps(totals))


if __name__ == '__main__':
    app.run(main)
