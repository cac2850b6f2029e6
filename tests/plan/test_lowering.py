"""The model FLOPs of a program are those counted by hand."""

import pytest

from selfrew.models.config import ModelConfig
from selfrew.plan import lowering


def test_model_flops_by_hand():
    config = ModelConfig(
        vocab=10, width=4, layers=2, heads=2, kv_heads=1, head_dim=2, mlp=8, max_length=8
    )
    # 2·3 tokens·100 weights, 2·4·10 at one position, and 4·2 layers·2 heads·2 features for each of
    # 5 columns
    flops = lowering.model_flops(config, 100, tokens=3, head_positions=1, context=5)
    assert flops == pytest.approx(600 + 80 + 160)
