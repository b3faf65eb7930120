"""Probes: each turns samples or scores of a behavior into a named measurement.

To add one: write a module here that draws what it needs (`draw`) and reads it (`measure`), give its measurement a class in `types.py`,
call it in `session.py`, and use it in `verdict.py`.
"""
