"""Talking to a model: a conversation in the terminal, and a server with OpenAI's API."""
