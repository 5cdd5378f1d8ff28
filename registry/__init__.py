"""What is remembered: the database, weights, models."""
