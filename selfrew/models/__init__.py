"""One decoder for all families, its attention and cache, Hugging Face folders in and out, tokenizer
and chat format.

Import from it: decoder, attention, hf, text, language_model (`load`, and `Lm`: module, tokenizer
and mesh).
It imports: types, mesh.
"""
