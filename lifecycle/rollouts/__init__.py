"""From candidate to stable: steps, verdict, driver."""
