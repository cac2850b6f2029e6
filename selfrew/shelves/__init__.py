"""The parts that a config names: plain functions on shelves, each shelf with one contract.

The contract opens the docstring of the shelf's module. A part calls its first parameter as the
contract does (lm, judgement, out); a config cannot name a function that does not.
Import from it: prompts, samplers, scorers, pairs, losses, optimizers, evals, each imported whole.
It imports: types, mesh, models, tasks, engine.
"""
