"""A diagnosis from request to files: sample, measure, decide, write."""
