"""From run directories to figures and tables: the registry of figures, reading runs, `plot`."""
