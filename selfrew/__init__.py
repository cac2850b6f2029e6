"""selfrew: language models that generate, judge and learn from their own answers, in JAX.

    lm, params = selfrew.load('path/or/hub-name')
    rollouts = lm.generate(params, ['Why is the sky blue?'], n=4)
    selfrew.save('out', lm, params)
    rounds = selfrew.run('quickstart', 'runs/quickstart')

README.md maps the package. Importing this module loads nothing heavy: `load`, `run` and `save` come
from `selfrew.api` at first use.
"""

from typing import TYPE_CHECKING

from selfrew.mesh import platforms

if TYPE_CHECKING:
    from selfrew.api import load, run, save

platforms.skip_absent_tpu()  # before jax, which `load` and the commands import, looks for one

__version__ = '0.1.0'
__all__ = ['load', 'run', 'save']


def __getattr__(name: str):
    if name in __all__:
        from selfrew import api  # noqa: PLC0415 (imports jax and transformers: seconds)

        return getattr(api, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
    return [*globals(), *__all__]
