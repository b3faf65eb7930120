"""Numbers, tables and figures: arrays and rows in, arrays and drawings out. Knows no models and imports no torch.

`stats` estimates, `figures` draws, `tables` sets.
"""
