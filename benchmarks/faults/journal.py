"""What a journalling file system may have on its disk after a power cut, from the operations that came before it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

Tree = dict[str, int | None]
"""{path below the folder: inode of the file there, or None for a folder}."""


@dataclass
class Journal:
    """Notes what of a folder is on the disk: a file's content once it was synced, and names in the order they came.

    Syncing anything writes the journal, and with it all names that were given before.
    """

    folder: Path
    synced: dict[int, bytes] = field(default_factory=dict)
    """{inode: content when it was last synced}."""
    names: Tree = field(default_factory=dict)
    """The names that are on the disk for certain."""

    def note(self, event: str, path: Path) -> None:
        """Note an operation on files that is about to be done, as `watch` tells of it."""
        tree = self._tree()
        there = set(tree.values())
        self.synced = {inode: content for inode, content in self.synced.items() if inode in there}  # else used again
        if event == "os.fsync":
            self.names = tree
            if path.is_file():
                self.synced[path.stat().st_ino] = path.read_bytes()

    def leave(self, target: Path, *, late: bool) -> None:
        """Write to `target` what a cut at this moment leaves: all names of now, or those alone that are certain.

        Files whose content was not synced are empty.
        """
        target.mkdir()
        tree = self._tree() if late else self.names
        for name, inode in sorted(tree.items()):
            place = target / name
            if inode is None:
                place.mkdir()
            else:
                place.write_bytes(self.synced.get(inode, b""))

    def _tree(self) -> Tree:
        found: Tree = {}
        for place, folders, names in os.walk(self.folder):
            below = Path(place).relative_to(self.folder)
            found |= {str(below / name): None for name in folders}
            found |= {str(below / name): os.stat(Path(place) / name).st_ino for name in names}
        return found
