"""Makes the tiny base that ships with the package: its tokenizer, its weights and its measured
result.

    python -m experiments.tiny_base.run --folder=selfrew/models/tiny_base

Everything is generated: problems of the built-in tasks' training split, worked by their lazy
demonstrators, and worked verdicts on such answers.
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
from selfrew.shelves import losses, optimizers
from selfrew.tasks import templates
from selfrew.types import Example, Response, State, ask

FOLDER = flags.DEFINE_string('folder', None, 'Where the Hugging Face folder goes.', required=True)
DOCUMENTS = flags.DEFINE_integer('documents', 120_000, 'Texts to train on, each seen once.')
SEED = flags.DEFINE_integer('seed', 0, 'Of the text and of the weights.')

BOS, USER, ASSISTANT, END, PAD = '<|bos|>', '<|user|>', '<|assistant|>', '<|end|>', '<|pad|>'
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>{{ m.content }}<|end|>"
    '{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}'
)
SHAPE = dict(width=96, layers=3, heads=3, kv_heads=1, head_dim=32, mlp=288, max_length=512)


def documents(n: int, rng) -> list[Example]:
    """Problems answered by lazy demonstrators, and every second one with a verdict on such an
    answer instead.
    """
    out = []
    for i, prompt in enumerate(tasks.problems(list(tasks.TASKS), n, rng)):
        task = tasks.get(prompt.meta['task'])
        judged = i // len(tasks.TASKS) % 2
        response = tasks.demonstrate(prompt, rng, evenly=judged)
        if judged:
            asked = templates.render('check', prompt=prompt.text, response=response)
            prompt, response = ask(f'verdict/{prompt.id}', asked), task.worked_verdict(prompt, response)
        out.append(Example(prompt, (Response(response),)))
    return out


def write_tokenizer(folder: str, rng) -> int:
    """Byte-level; every word of the tasks a token of its own, other text in bytes. Returns the
    vocabulary's size.
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {}  # in the order of first sight
    with open(os.path.join(templates.TEMPLATES, 'check.jinja')) as file:
        texts = [file.read()]
    for prompt in tasks.problems(list(tasks.TASKS), 8000, rng):
        task = tasks.get(prompt.meta['task'])
        response = tasks.demonstrate(prompt, rng)
        texts += [prompt.text, response, task.worked_verdict(prompt, response)]
    texts += [f'{n} {n}' for n in range(tasks.word_problems.LARGEST + 1)]
    for text in texts:
        words.update(dict.fromkeys(word for word, _ in split.pre_tokenize_str(text)))
    special = [PAD, BOS, USER, ASSISTANT, END]
    vocabulary = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary += [word for word in words if word not in vocabulary]
    # ignore_merges: a word that is in the vocabulary is one token; there are no merges, so others
    # fall into bytes
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
        'model_max_length': SHAPE['max_length'],
        'clean_up_tokenization_spaces': False,
    }
    with open(os.path.join(folder, 'tokenizer_config.json'), 'w') as file:
        json.dump(settings, file, indent=2)
        file.write('\n')
    with open(os.path.join(folder, 'chat_template.jinja'), 'w') as file:
        file.write(CHAT)
    return len(vocabulary)


def main(_):
    rng = np.random.default_rng(SEED.value)
    with tempfile.TemporaryDirectory() as work:
        vocabulary = write_tokenizer(work, rng)
        config = decoder.ModelConfig(vocab=vocabulary, **SHAPE)
        params = decoder.init_params(decoder.make_module(config), jax.random.key(SEED.value))
        text = text_module.load(work)
        ids = dict(bos=text.bos, eos=text.eos, pad=text.pad)
        hf.write(work, hf.llama(config, **ids), config, params)
        lm, params = language_model.load(folder=work)
        print(f'{vocabulary} tokens, {sum(p.size for p in jax.tree.leaves(params)):,} parameters')
        begun, losses_seen = time.time(), []

        def report(step, metrics):
            losses_seen.append(metrics['nll'])
            if step % 200 == 0:
                print(
                    f'step {step} nll {np.mean(losses_seen[-200:]):.4f} {time.time() - begun:.0f} s',
                    flush=True,
                )

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
        write_tokenizer(FOLDER.value, np.random.default_rng(SEED.value))
        hf.write(FOLDER.value, hf.llama(config, **ids), config, state.params)
        print(
            json.dumps(
                totals | {'nll': float(np.mean(losses_seen[-200:])), 'seconds': time.time() - begun}
            )
        )


if __name__ == '__main__':
    app.run(main)
