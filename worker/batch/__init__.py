"""Files of requests through the queue into files of answers: each line once, whatever dies meanwhile."""
