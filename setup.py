"""Installs selfrew; `pip install -e .` in a clone."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'selfrew/__init__.py').read_text())[1]

setup(
    name='selfrew',
    version=VERSION,
    description='Language models that generate, judge and learn from their own answers, in JAX',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_packages(include=['selfrew', 'selfrew.*']),
    package_data={'selfrew': ['templates/*.jinja', 'tiny_base/*']},
    install_requires=[
        'absl-py>=2.1', 'chex>=0.1.90', 'flax>=0.12', 'jax>=0.8', 'jinja2>=3.1', 'matplotlib>=3.9',
        'ml-collections>=1.0', 'numpy>=2.0', 'optax>=0.2.5', 'orbax-checkpoint>=0.11.25', 'safetensors>=0.5',
        'scipy>=1.13', 'tensorboardX>=2.6', 'tensorflow-datasets>=4.9.9', 'array-record>=0.8', 'tqdm>=4.66',
        'transformers>=5.0',
    ],
    extras_require={
        'test': ['pytest>=8'],
        'tf': ['tensorflow-cpu>=2.18'],  # the catalogue of tensorflow-datasets
        'tpu': ['jax[tpu]>=0.8'],
        'cuda': ['jax[cuda12]>=0.8'],
    },
    entry_points={'console_scripts': ['selfrew=selfrew.main:cli']},
)  # fmt: skip
