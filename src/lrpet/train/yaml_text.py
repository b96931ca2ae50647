"""YAML as it is read and written here: of bounded size and depth, without aliases, and with no name twice.

An alias stands for a value that was written before. Ten lines of aliases of aliases stand for more than any memory holds.
"""

from __future__ import annotations

from typing import Any

import yaml

#: Characters that a text may have, and levels that its values may be nested.
LARGEST, DEPTH = 2**20, 20


class _Loader(yaml.SafeLoader):
    """Reads plain values, and refuses what no recipe needs."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read one value. Raises YAMLError for an alias, and beyond the depth."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                None, None, "aliases (*name) are not read here, and text that begins with an asterisk is quoted", mark
            )
        if self.depth == DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"it is nested deeper than {DEPTH} levels", mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Read a mapping. Raises YAMLError if it has a name twice."""
        values = super().construct_mapping(node, deep=deep)
        if len(values) < len(node.value):
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.MarkedYAMLError(None, None, f"it has {twice!r} twice", node.start_mark)
        return values


class _Dumper(yaml.SafeDumper):
    """Writes a value out wherever it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        """Say that no alias is written."""
        return True


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text. Raises ValueError, with what is wrong and where, for what is not read here."""
    if len(text) > LARGEST:
        raise ValueError(f"it has {len(text):,} characters, and {LARGEST:,} are read at most")
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        OverflowError,
    ) as error:  # dates and numbers that are none raise others
        raise ValueError(" ".join(str(error).split())) from None


def write_yaml(value: Any) -> str:
    """Return plain values as YAML, which `read_yaml` reads back; names keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)
