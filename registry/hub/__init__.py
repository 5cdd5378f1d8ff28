"""Where models come from: a folder of this machine, the Hugging Face hub or a mirror of it."""
