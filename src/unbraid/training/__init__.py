"""Training of the built-in models: material, remixing, the loop, checkpoints."""
