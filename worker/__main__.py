"""`python -m worker` is `kc-worker`."""

from worker.cli import main

if __name__ == "__main__":
    main()
