"""Measures this server, its floors and its rivals: `python -m bench --help`, and README.md beside this file."""
