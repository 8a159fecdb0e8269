"""The same chat as a task of other queues, each configured as its documentation recommends.

Each module is run in two ways: by the queue's own worker command, and as a producer

    python -m bench.peers.arq_app enqueue 1000      put so many tasks in the queue
    python -m bench.peers.arq_app time 100          one task at a time; prints the seconds each took, as JSON

with REDIS_URL, MODEL_URL and IN_FLIGHT in the environment. They run in environments of their own
(`bench/provision.py`), where nothing of ours is installed: no module here imports `worker`.
"""
