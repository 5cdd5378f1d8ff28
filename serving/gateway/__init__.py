"""The data path: OpenAI's API in front of the engines. Raw ASGI; keys, routes and shares are a snapshot in memory."""
