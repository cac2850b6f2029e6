"""One decoder for all families, and how its weights come in and go out. Layer 1."""
