"""Behaviors that come with the package, one YAML file each; the file's name is the behavior's."""
