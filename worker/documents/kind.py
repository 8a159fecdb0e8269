"""What a file is, by its content."""

#: A PDF begins within these bytes (what comes before is somebody's mail header).
HEAD_BYTES = 1024


def is_pdf(data: bytes) -> bool:
    """Whether a file is a PDF; its first `HEAD_BYTES` are enough."""
    return b"%PDF" in data[:HEAD_BYTES]
