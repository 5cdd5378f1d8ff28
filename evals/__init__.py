"""How good it is: suites, scoring, the sandbox, statistics."""
