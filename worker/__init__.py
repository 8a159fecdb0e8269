"""kc-worker: self-hosted LLM work, as tasks."""

__version__ = "0.1.0"
