"""Celery on one asyncio loop: the pool, the bridge between them, and the result store."""
