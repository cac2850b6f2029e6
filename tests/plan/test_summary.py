"""A plan as text shows what fits, what the compiler refused, and what to change."""

from selfrew.plan import chips, summary

GiB = 2**30


def test_a_program_that_does_not_fit_says_what_to_change():
    state = {'params': 12 * GiB}
    results = {
        'update': {'fits': False, 'bytes': state},
        'sample: prefill': {'fits': False, 'bytes': {}},
        'reference': {'fits': True, 'bytes': {}},
    }
    update, sample = summary.advice(results, chips.CHIPS['v5e'], {'remat': 'none'})
    for words in ('mesh.fsdp', 'params=bfloat16', 'remat=full', 'train.batch'):
        assert words in update
    assert 'fewer slots (of the sampler)' in sample and 'remat' not in sample


def test_a_report_shows_what_fits_and_what_the_compiler_refused():
    reference = {
        'fits': True,
        'bytes': {'params': GiB},
        'tokens': 8,
        'seconds': 0.5,
        'kernel_seconds': 0.4,
        'sorts': 2,
        'kernels': 80,
        'pallas_seconds': 0.05,
        'collective_seconds': 0.1,
        'tokens_per_s': 16.0,
        'mfu': 0.25,
        'bound_fraction': 0.6,
        'bound_by': 'FLOPs',
        'model_flops': 1e15,
        'compile_seconds': 3.0,
        'collectives': {'all-gather': {'count': 80, 'bytes': 2 * GiB}},
        'unknown_loops': 0,
    }
    refusal = 'Ran out of memory (20G of 15.75G)'
    update = {'fits': False, 'bytes': {'params': GiB}, 'refused': refusal}
    plan = {
        'model': 'm',
        'parameters': 10,
        'topology': 'v5e:2x4',
        'mesh': {},
        'sampling_mesh': {},
        'jax': '1',
        'libtpu': '2',
        'hbm_gib': 15.75,
        'prompt_tokens': 512,
        'programs': {'reference': reference, 'update': update},
        'verdict': 'does not fit; change x',
        'round_seconds': {'reference': 90.0, 'update': None},
        'evaluations': [{'title': 'wins: judge', 'requests': 1600, 'max_tokens': 256}],
    }
    text = summary.plan_text(plan)
    for words in (
        'no: Ran out of memory (20G',
        'all-gather 2.00 (80); 2 sorts not timed; 80 Pallas kernels by their work, 50.0 ms',
        '25.0%    60.0% FLOPs',
        'reference 1.5',
        'update ?',
        'but opponents once in a run: wins: judge 1,600 of 256 tokens',
        'change x',
        'predicted, not measured',
    ):
        assert words in text, text
