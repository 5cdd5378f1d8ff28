"""The words of seatrial, its ports, its errors and its settings. Imports nothing of ours and no SDK."""
