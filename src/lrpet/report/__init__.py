"""From run folders to one self-contained page: `write_report`. Reads folders only, and trains nothing."""
