"""The words of a config: plain functions, each shelf with one contract, stated at the top of its
module.

Import from it: prompts, samplers, scorers, pairs, losses, optimizers, evals, each imported whole.
It imports: types, mesh, models, tasks, engine.
"""
