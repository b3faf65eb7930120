"""One optimizer step: packing, forward scores, log-probabilities, the update."""
