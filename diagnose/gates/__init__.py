"""Conditions on a measured run, for continuous integration."""
