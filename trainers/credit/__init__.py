"""Credit assignment: advantages for the tokens of a row."""
