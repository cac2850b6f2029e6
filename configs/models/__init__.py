"""Published models by name, with what a plan or a run needs of their config.json.

Data only, no jax; one family a file. An entry has `folder`, the name on the Hugging Face hub, and
`shape`, fields of its config.json. Each shape gives exactly the published number of parameters
(tests/configs/test_presets.py). A folder that differs from its shape is refused.
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
    """{'folder': …, 'shape': …} of a model. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f'no model {name!r}; there are: {", ".join(PRESETS)}')
    return copy.deepcopy(PRESETS[name])
