"""The HTTP gateway: one more producer, which sends tasks by name. It knows no task's code."""
