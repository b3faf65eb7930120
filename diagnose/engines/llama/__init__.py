"""Llama-like models computed by layers of our own: what several sequences begin with is read once."""
