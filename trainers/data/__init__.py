"""Rows of a data set to tokens."""
