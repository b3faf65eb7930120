"""Which samples to take next, and taking them."""
