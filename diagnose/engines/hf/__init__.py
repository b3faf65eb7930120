"""The embedded engine: any Hugging Face causal language model."""
