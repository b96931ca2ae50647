"""The recipes' engine: config, data, loop, measuring, run folders."""
