"""YAML that a user wrote: whatever cannot be read, or would take memory and time without end, is one error with its place."""

from __future__ import annotations

from typing import Any

import yaml

_MOST_NODES = 1_000_000
"""Values of a file at most, those counted again that an alias repeats."""


class YamlTextError(ValueError):
    """A text is no YAML that can be used.

    Args:
        problem: What is wrong, in one line.
        line: Where, from 1; None where it is not known.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line

    @property
    def place(self) -> str:
        """`:LINE`, to be written behind the name of the file; empty where the line is not known."""
        return "" if self.line is None else f":{self.line}"


def parse_yaml(text: str) -> Any:
    """Return what a YAML text holds.

    Raises:
        YamlTextError: It is no YAML, is nested too deeply, or its aliases repeat more than a million values.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and _num_nodes(root, {}) > _MOST_NODES:
            raise YamlTextError(f"its aliases repeat more than {_MOST_NODES:,} values")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise YamlTextError(problem, None if mark is None else mark.line + 1) from error
    except RecursionError as error:
        raise YamlTextError("it is nested too deeply") from error
    except YamlTextError:
        raise
    except ValueError as error:  # a number of more digits than Python reads, or a day that no month has
        raise YamlTextError(" ".join(str(error).split())[:120]) from error


def _num_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values under a node as they are read, an alias counted as what it stands for."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES + 1  # for one that holds itself
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_num_nodes(child, known) for child in children))
    return known[id(node)]
