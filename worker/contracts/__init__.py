"""What producers send and get back, one file a task family."""
