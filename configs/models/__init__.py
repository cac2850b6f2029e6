"""Published models by name: what of their config.json shapes a plan or a run. Data only, no jax;
one family a file.

An entry has `folder`, the name on the Hugging Face hub, and `shape`, facts of its config.json. Each
shape gives the published number of parameters to the last one (tests/plan/test_plan.py). A folder
that differs from it is refused.
"""

import copy

from configs.models import gemma2, llama2, llama3, mistral, phi3, qwen2_5

PRESETS = {
    **llama2.PRESETS,
    **llama3.PRESETS,
    **qwen2_5.PRESETS,
    **mistral.PRESETS,
    **gemma2.PRESETS,
    **phi3.PRESETS,
}


def get(name: str) -> dict:
    """{'folder': …, 'shape': …} of a model. ValueError, with the choices, for a name that does not
    exist.
    """
    if name not in PRESETS:
        raise ValueError(f'no model {name!r}; there are: {", ".join(PRESETS)}')
    return copy.deepcopy(PRESETS[name])
