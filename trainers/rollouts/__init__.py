"""Engines that sample the model in training, and how they get its weights."""
