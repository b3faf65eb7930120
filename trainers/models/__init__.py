"""Models in training: loading, LoRA adapters, averages, heads, checkpoints."""
