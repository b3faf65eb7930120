"""Find the part of a text that states the answer, and read all of it: the grammar that every verifier of short answers shares."""
