"""The device side: packed rows, selected-token log-probs, the reference column, training, and
sampling (`generate`) with its own layout.

Import from it: packing, logprobs, reference, trainer, train_step, train_state, schedules,
loss_contract, response_logps, sampling_layout, scalar_values, saved_models, generate.
It imports: types, mesh, models.
"""
