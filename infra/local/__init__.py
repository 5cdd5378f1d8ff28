"""`seatrial up`: the embedded stack on one machine."""
