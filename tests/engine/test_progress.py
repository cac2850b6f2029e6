"""Bars leave compiling out of rates, and totals count what was computed."""

import jax
import jax.numpy as jnp
import pytest

from selfrew.engine import generate, progress
from selfrew.engine.generate import journal


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set; bars print whenever a second of it has passed."""

    class Clock:
        now = 1000.0

        def time(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress.time, 'time', clock.time)
    monkeypatch.setattr('tqdm.std.time', clock.time)
    return clock


def _compile(clock, seconds):
    clock.now += seconds
    progress._add_compilation(progress.COMPILING[1], seconds)


def _last(capsys):
    return capsys.readouterr().err.split('\r')[-1]


def test_a_rate_of_sampling_leaves_out_compiling(clock, capsys):
    with progress.SamplingBar(8, 0, 'sample') as bar:
        clock.now += 2.0
        bar.reading(600, 3, 4)
        assert 'sample: reading prompts' in (shown := _last(capsys))
        assert '3 of 4 prompts, 300 tokens/s' in shown
        _compile(clock, 60.0)
        clock.now += 2.0
        bar.sampling(400, 0, 800)  # 100 tokens/s in 4 seconds; 800 may be left
        shown = _last(capsys)
        assert (
            '100 tokens/s, at most 0:08 left, compiled for 1:00' in shown and 'reading' not in shown
        )


def test_the_time_left_follows_from_the_samples_that_ended(clock, capsys):
    with progress.SamplingBar(100, 0, 'sample') as bar:
        clock.now += 10.0
        bar.sampling(1000, 20, 1_000_000)
        # 50 tokens a sample, 100 samples: 4,000 tokens are left at 100 a second.
        assert '20/100' in (shown := _last(capsys)) and ' 0:40 left' in shown
        bar.sampling(0, 0, 500)  # and never more than the limits allow
        clock.now += 2.0
        bar.sampling(200, 0, 500)
        assert ' 0:05 left' in _last(capsys)


def test_a_first_step_that_compiles_does_not_enter_the_rate(clock, capsys):
    with progress.StepBar(10, 'update', 'step') as bar:
        _compile(clock, 100.0)
        clock.now += 20.0
        bar.step()
        for _ in range(3):
            clock.now += 2.0
            bar.step()
    shown = capsys.readouterr().err
    assert 'update: compiling' in shown.split('\r')[1]
    assert '4/10 [00:06<00:12,' in shown.split('\r')[-1] and ' 2.00s/step' in shown.split('\r')[-1]


def test_compiling_is_counted():
    before = progress.totals()
    jax.jit(lambda x: jnp.sin(x) * 3.14159 + 7)(jnp.ones(13)).block_until_ready()
    assert progress.totals().compile_seconds > before.compile_seconds


def test_tokens_are_counted_that_were_computed_and_not_those_of_a_journal(tiny, tmp_path):
    lm, params = tiny
    prompts = [lm.text.encode(f'{i} + {i} =') for i in range(20)]
    keys = generate.request_keys(jax.random.key(0), list(map(str, range(20))), [0] * 20)

    def sample():
        before = progress.totals()
        with journal.recording(str(tmp_path / 'samples.jsonl')):
            responses = generate.generate(lm, params, prompts, keys, max_tokens=9, slots=8)
        return responses, progress.totals().since(before, 2.0, 100)

    responses, done = sample()
    assert done['sampled_tokens'] == sum(len(response.tokens) for response in responses)
    assert done['read_tokens'] == sum(len(prompt) - 1 for prompt in prompts)
    rate = (done['sampled_tokens'] + 100) / (2.0 - done['compile_seconds'])
    assert done['tokens_per_s'] == pytest.approx(rate) or done['compile_seconds'] >= 2.0

    path = tmp_path / 'samples.jsonl'
    path.write_text(''.join(path.read_text().splitlines(keepends=True)[:12]))
    again, done = sample()
    assert again == responses
    lengths = [len(response.tokens) for response in responses]
    assert 0 < done['sampled_tokens'] < sum(lengths)
    assert sample()[1]['sampled_tokens'] == 0
