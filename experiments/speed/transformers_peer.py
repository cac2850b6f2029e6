"""transformers' generate on the workload, set for speed."""

import time
from typing import Any

import torch
import transformers

from experiments.speed import workload
from experiments.speed.figures import sample_figures


def build(shape: workload.Shape, seed: int):
    """transformers' Llama, or Qwen2 where there are biases, with random weights of standard
    deviation fan_in**-0.5.
    """
    kind: Any = transformers.Qwen2Config if shape.qkv_bias else transformers.LlamaConfig
    config = kind(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=workload.POSITIONS,
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tied,
        rope_parameters={'rope_type': 'default', 'rope_theta': shape.rope_theta},
        bos_token_id=None,
        eos_token_id=list(workload.ends(shape)),
        pad_token_id=workload.PAD,
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation='sdpa', dtype=torch.float32
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
    return model


def transformers_generate(shape: workload.Shape, options) -> dict:
    """transformers' generate: prompts padded on the left, samples by num_return_sequences, all as
    one batch.

    Set for speed: sdpa attention, the growing cache, no top-k or top-p. It takes any number of end
    tokens. It decodes until all samples have ended; the padding that it writes after a sample's end
    is not counted.
    """
    transformers.logging.set_verbosity_error()
    prompts = workload.prompts(shape, options.prompts, options.seed)
    stops = set(workload.ends(shape))
    tokens, mask = workload.padded(prompts, max(map(len, prompts)), left=True)
    model = build(shape, options.seed).eval()
    inputs = {
        'input_ids': torch.tensor(tokens, dtype=torch.long),
        'attention_mask': torch.tensor(mask),
    }
    produced, rounds = [], []
    for i in range(1 + options.rounds):
        torch.manual_seed(i)
        start = time.perf_counter()
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=options.max_tokens,
                num_return_sequences=options.samples,
                eos_token_id=sorted(stops),
                pad_token_id=workload.PAD,
                **options.transformers,
            )
        rounds.append(time.perf_counter() - start)
        responses = output[:, tokens.shape[1] :].tolist()
        produced.append(sum(workload.produced(response, stops) for response in responses))
    return sample_figures(produced[1:], rounds[1:], first_call_s=rounds[0])
