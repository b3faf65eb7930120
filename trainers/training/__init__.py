"""The training loop and what it keeps: evaluation, logs, the state to resume from."""
