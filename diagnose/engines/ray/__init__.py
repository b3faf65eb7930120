"""Many engines as one, in Ray actors."""
