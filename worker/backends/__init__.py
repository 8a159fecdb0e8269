"""The model servers: one OpenAI-compatible client, a page of differences each."""

from worker.backends.registry import BackendName, create_backend

__all__ = ["BackendName", "create_backend"]
