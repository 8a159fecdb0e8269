#!/usr/bin/env python3
"""`healthcheck VARIABLE DEFAULT PATH`: exit 0 where http://127.0.0.1:$VARIABLE/PATH answers 200.

Port 0 means the page is turned off: there is nothing to check. For images without curl.
"""

import os
import sys
import urllib.error
import urllib.request
from http import HTTPStatus

_TIMEOUT_S = 8


def main(variable: str, default: str, path: str) -> int:
    """Ask once; the exit status, with the reason on stdout (`docker inspect` shows it)."""
    port = os.environ.get(variable) or default
    if port == "0":
        return 0
    # Past any proxy of the environment: the server is in this container.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=_TIMEOUT_S) as answer:
            status = int(answer.status)
    except urllib.error.HTTPError as error:
        print(f"{error.code}: {error.read(500).decode(errors='replace')}")
        return 1
    except OSError as error:
        print(error)
        return 1
    return 0 if status == HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
