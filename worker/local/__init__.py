"""Redis, llama.cpp and a worker on this machine, from wheels: nothing to install, nothing left running."""
