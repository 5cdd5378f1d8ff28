"""Benchmark suites: their types, their files, and where the files come from."""
