"""The model servers: one OpenAI-compatible client, a page of differences each."""
