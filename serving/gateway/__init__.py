"""The data path: OpenAI's API in front of the engines."""
