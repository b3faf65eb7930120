"""From measurements to a diagnosis: pure, reads nothing and writes nothing."""
