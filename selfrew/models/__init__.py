"""The decoder with its attention and KV cache, Hugging Face folders, tokenizers and chat formats.

Import from it: decoder, config (`ModelConfig`, `Rope`), lora, attention, paged_attention, hf, text,
language_model (`load`, and `Lm`: module, tokenizer and mesh).
It imports: types, mesh.
"""
