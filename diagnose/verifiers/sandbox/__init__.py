"""The child process in which texts of a model are parsed or executed."""
