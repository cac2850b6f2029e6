"""Installs selfrew; `pip install -e .` in a clone."""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'selfrew/__init__.py').read_text())[1]


class BuildWithConfigs(build_py):
    """Also puts the configs into the package, where `selfrew run NAME` finds them."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shipped = pathlib.Path(self.build_lib, 'selfrew', 'shipped', 'configs')
            ignored = shutil.ignore_patterns('__pycache__')
            shutil.copytree(HERE / 'configs', shipped, ignore=ignored, dirs_exist_ok=True)


setup(
    name='selfrew',
    version=VERSION,
    description='Language models that generate, judge and learn from their own answers, in JAX',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_packages(include=['selfrew', 'selfrew.*']),
    package_data={
        'selfrew': [
            'models/chat_templates/*.jinja',
            'models/tiny_base/*',
            'tasks/templates/*.jinja',
        ]
    },
    # Every config's smoke ran with exactly these versions, and with the newest of 2026-11.
    install_requires=[
        'absl-py>=2.3.1',
        'array-record>=0.8.2',
        'chex>=0.1.91',
        'flax>=0.12.3',
        'huggingface-hub>=1.3',
        'importlib-resources>=6.5',  # tensorflow-datasets needs it and does not declare it
        'jax>=0.9.0',
        'jinja2>=3.1.6',
        'math-verify>=0.9',  # decides whether answers to mathematics are right
        'matplotlib>=3.10',
        'ml-collections>=1.1',
        'numpy>=2.2',
        'optax>=0.2.7',
        'orbax-checkpoint>=0.11.33',
        'safetensors>=0.6.2',
        'scipy>=1.15',
        'tensorboardX>=2.6.4',
        'tensorflow-datasets>=4.9.9',
        'tqdm>=4.67',
        'transformers>=5.0',
    ],
    extras_require={
        'test': [
            'hypothesis>=6.100',
            'pytest>=8.4',
            'pytest-xdist>=3.6',
            'sentencepiece>=0.2',
            'gguf>=0.17',
            'nltk>=3.9',
        ],
        'lift': ['nltk>=3.9'],  # counts words, for limits of them
        'gguf': ['gguf>=0.17'],  # reads models of llama.cpp, model.folder=x.gguf
        # Exact versions: another formatter formats otherwise.
        'dev': ['ruff==0.17.6', 'basedpyright==1.40.2', 'pre-commit>=4.0'],
        # The tests against transformers, which needs accelerate to read GGUF files, PEFT and TRL.
        # On a machine without a GPU take torch's CPU build.
        'parity': ['torch>=2.6', 'accelerate>=1.1', 'peft>=0.17', 'trl>=1.16'],
        'tf': ['tensorflow-cpu>=2.18'],  # for a part of the tensorflow-datasets catalogue
        # For folders with a tokenizer.model and no tokenizer.json.
        'sentencepiece': ['sentencepiece>=0.2', 'protobuf>=4.25'],
        'tpu': ['jax[tpu]>=0.9.0'],
        'wandb': ['wandb>=0.19'],  # for --wandb=PROJECT
        'plan': ['libtpu>=0.0.51'],  # a TPU compiler, for selfrew.plan on a machine without a TPU
        'cuda': ['jax[cuda12]>=0.9.0'],
    },
    cmdclass={'build_py': BuildWithConfigs},
    entry_points={'console_scripts': ['selfrew=selfrew.__main__:cli']},
)
