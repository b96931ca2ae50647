"""What is claimed, measured: each module is a program, run by hand from the root of the repository."""
