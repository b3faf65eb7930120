"""Who gets the praise: advantages for the tokens of a row."""
