"""Environments of the library verifiers: their problems and their graders. Nothing here is imported outside a child process, but `refusal`."""
