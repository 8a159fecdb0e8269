"""A Hub on 127.0.0.1 that speaks enough of the real one's API for huggingface_hub: listing, resolve, ranges."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM_BYTES = 400


@dataclass
class Repo:
    """A repository: its files, and how it misbehaves.

    Attributes:
        files: name → content.
        gated: status its files are refused with (401, 403); 0 for open.
        refusal: error code that goes with it.
        token: token that opens a gated one.
        cut_after: bytes after which each transfer of a file is cut off; None for never.
        hold: while set, transfers stop after `cut_after` bytes and wait instead of being cut off.
        tampered: name → what is sent in place of the content.
        claimed_size: name → size that is listed, whatever the content's is.
        ignores_ranges: answers 200 with everything to a request for a range.
        lists_names_only: the listing has neither sizes nor checksums.
        busy: how many requests are first answered 503.
    """

    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    gated: int = 0
    refusal: str = "GatedRepo"
    token: str = "hf_good"
    cut_after: int | None = None
    hold: threading.Event | None = None
    tampered: dict[str, bytes] = field(default_factory=dict)
    claimed_size: dict[str, int] = field(default_factory=dict)
    ignores_ranges: bool = False
    lists_names_only: bool = False
    busy: int = 0


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    range: str | None
    authorization: str | None


class FakeHub(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.seen: list[Seen] = []
        self.sent = threading.Semaphore(0)

    def transfers(self) -> list[Seen]:
        """The requests for contents of files."""
        return [seen for seen in self.seen if seen.method == "GET" and "/resolve/" in seen.path]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed are the point of some tests."""


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = self.headers
        self.server.seen.append(
            Seen(self.command, self.path, headers.get("Range"), headers.get("Authorization"))
        )
        path = urlsplit(self.path)
        parts = [unquote(part) for part in path.path.strip("/").split("/")]
        is_listing = parts[:2] == ["api", "models"]
        repo_id = "/".join(parts[2:4] if is_listing else parts[:2])
        repo = self.server.repos.get(repo_id)
        if repo is None:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
        elif repo.busy:
            repo.busy -= 1
            self._refuse(503, "", "busy")
        elif is_listing:
            revision = parts[5] if len(parts) > 5 else "main"
            self._list(repo, repo_id, revision, "blobs" in parse_qs(path.query))
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve(repo, "/".join(parts[4:]))
        else:
            self._refuse(404, "", "Not Found")

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _list(self, repo: Repo, repo_id: str, revision: str, blobs: bool) -> None:
        if revision not in {"main", repo.commit}:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        siblings = []
        for name, data in repo.files.items():
            sibling: dict[str, object] = {"rfilename": name}
            if blobs and not repo.lists_names_only:
                size = repo.claimed_size.get(name, len(data))
                sibling |= {"size": size, "blobId": git_sha1(data)}
                if is_lfs(data):
                    sha256 = hashlib.sha256(data).hexdigest()
                    sibling["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
            siblings.append(sibling)
        body = json.dumps({"_id": "1", "id": repo_id, "sha": repo.commit, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _resolve(self, repo: Repo, name: str) -> None:
        if repo.gated and self.headers.get("Authorization") != f"Bearer {repo.token}":
            self._refuse(repo.gated, repo.refusal, "Access to this model is restricted.")
            return
        if name not in repo.files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        whole = repo.tampered.get(name, repo.files[name])
        asked = self.headers.get("Range")
        start, body = 0, whole
        if asked and not repo.ignores_ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            start = int(first)
            body = whole[start : int(last) + 1 if last else None]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(whole)}")
        else:
            self.send_response(200)
        self._identify(repo, repo.files[name])
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "GET":
            self._send(repo, body)

    def _identify(self, repo: Repo, data: bytes) -> None:
        self.send_header("X-Repo-Commit", repo.commit)
        if is_lfs(data):
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("ETag", f'"{git_sha1(data)}"')

    def _send(self, repo: Repo, body: bytes) -> None:
        if repo.cut_after is None or len(body) <= repo.cut_after:
            self.wfile.write(body)
            return
        self.wfile.write(body[: repo.cut_after])
        self.wfile.flush()
        self.server.sent.release()
        if repo.hold is not None:
            repo.hold.wait(60)
            self.wfile.write(body[repo.cut_after :])
            return
        self.close_connection = True


def is_lfs(data: bytes) -> bool:
    return len(data) >= LFS_FROM_BYTES


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
