"""Models that the demo and the tests use and that are built from packages of the index: a real language model on any machine."""
