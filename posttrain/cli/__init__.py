"""The command line: a file per verb, each a few lines that call a package.

Progress goes to stderr, results to stdout. Exit codes: 0 done; 2 the input is wrong, told in one line; 130 stopped by Ctrl-C, 143 by
SIGTERM and 129 by SIGHUP, with what is finished kept; 1 a gate proven not met, and any other failure; 3 a gate not decided.
"""

from posttrain.cli.entry_point import app, main

__all__ = ["app", "main"]
