"""The Hugging Face Hub, or a mirror of it: what a repository holds, and the bytes of its files.

Names, addresses, listings and refusals are huggingface_hub's business. The transfer is not: in 2.x each
attempt writes to a file of its own and starts from zero; these resume.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

# Set before the import, which reads it: otherwise a pull first asks the Hub for a list used for statistics.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.hf_api import RepoSibling

from worker.errors import ModelError
from worker.models.content import RemoteFile

_T = TypeVar("_T")
# The Hub's CDN answers no single request for more than 50 GB.
_REQUEST_BYTES = 32 * 1024**3
_ATTEMPTS = 3


class HubUnavailable(ModelError):
    """The Hub cannot be reached or cannot answer now; trying again can help.

    Args:
        message: what is wrong and what to do.
        retry_after_s: how long it asked to be left alone, in seconds.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def _remote(file: RepoSibling) -> RemoteFile:
    if file.lfs is not None:
        return RemoteFile(file.rfilename, file.lfs.size, file.lfs.sha256, None)
    return RemoteFile(file.rfilename, -1 if file.size is None else file.size, None, file.blob_id)


class Hub:
    """One Hub and who asks it.

    Args:
        endpoint: base URL; None: HF_ENDPOINT, else huggingface.co.
        token: access token; None: the one `hf auth login` stored, if any.
        retry_delay_s: seconds before the first repeated request; doubled each time.
    """

    def __init__(self, endpoint: str | None, token: str | None, *, retry_delay_s: float = 1.0) -> None:
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self.retry_delay_s = retry_delay_s
        stored = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else huggingface_hub.get_token()
        self._token = token or stored
        self._api = huggingface_hub.HfApi(self.endpoint, token=self._token or False, library_name="kc-worker")

    def files(self, repo: str, revision: str) -> tuple[str, list[RemoteFile]]:
        """The commit `revision` points to, and the files it holds.

        Raises:
            HubUnavailable: no answer, even when asked again.
            ModelError: there is no such repository or revision, or no access to it.
        """
        info = self._patiently(
            lambda: self._api.model_info(
                repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            ),
            repo,
            revision,
        )
        if not info.sha or info.siblings is None:
            raise self._not_a_hub()
        return info.sha, [_remote(file) for file in info.siblings]

    def described(self, repo: str, commit: str, file: RemoteFile) -> RemoteFile:
        """`file` with size and checksum, asked for where the listing of a mirror has only its name.

        Raises:
            HubUnavailable: no answer, even when asked again.
            ModelError: no such file, or no access to it.
        """
        if file.size_bytes >= 0:
            return file
        url = huggingface_hub.hf_hub_url(repo, file.name, revision=commit, endpoint=self.endpoint)
        found = self._patiently(
            lambda: huggingface_hub.get_hf_file_metadata(
                url, token=self._token or False, endpoint=self.endpoint
            ),
            repo,
            commit,
            file.name,
        )
        if found.size is None:
            raise self._not_a_hub()
        etag = found.etag or ""
        sha256, git_sha1 = (etag if len(etag) == length else None for length in (64, 40))
        return RemoteFile(file.name, found.size, sha256, git_sha1)

    def cached(self, repo: str, commit: str, name: str, cache_dir: Path) -> Path | None:
        """The file in Hugging Face's own cache, where another program put it."""
        found = huggingface_hub.try_to_load_from_cache(
            repo, name, cache_dir=cache_dir / "hub", revision=commit
        )
        return Path(found) if isinstance(found, str) else None

    @contextmanager
    def read(
        self, repo: str, commit: str, file: RemoteFile, start: int
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of a file from `start` on, as (where they really start, chunks).

        They start at 0 where the server cannot resume, and may end before the file does: ask again then.

        Raises:
            HubUnavailable: no answer, or cut off; what was yielded so far is good.
            ModelError: no such file, or no access to it.
        """
        stop = min(start + _REQUEST_BYTES, file.size_bytes)
        headers = self._headers()
        if start or stop < file.size_bytes:
            headers["Range"] = f"bytes={start}-{stop - 1}"
        with self._translated(repo, commit, file.name):
            url = huggingface_hub.hf_hub_url(repo, file.name, revision=commit, endpoint=self.endpoint)
            timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)
            session = huggingface_hub.get_session()
            with session.stream("GET", url, headers=headers, timeout=timeout) as response:
                huggingface_hub.hf_raise_for_status(response)
                begins = response.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
                resumed = response.status_code == 206 and begins == str(start)
                if response.status_code == 206 and not resumed:
                    raise self._not_a_hub()
                # No chunk size: what is gathered for a full chunk is lost when the connection breaks.
                yield (start if resumed else 0), response.iter_bytes()

    def _headers(self) -> dict[str, str]:
        authorization = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return {"User-Agent": "kc-worker", "Accept-Encoding": "identity", **authorization}

    def _patiently(self, ask: Callable[[], _T], repo: str, revision: str, name: str = "") -> _T:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._translated(repo, revision, name):
                    return ask()
            except HubUnavailable as unavailable:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(max(self.retry_delay_s * 2 ** (attempt - 1), unavailable.retry_after_s))
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _translated(self, repo: str, revision: str, name: str) -> Iterator[None]:
        """huggingface_hub's and the transport's exceptions as sentences of ours."""
        try:
            with self._transport_translated():
                yield
        except errors.GatedRepoError as error:
            raise self._gated(repo) from error
        except errors.RepositoryNotFoundError as error:
            raise ModelError(
                f"There is no repository {repo} at {self.endpoint}, or it is private. Check the name "
                f"(ORGANISATION/NAME); for a private one, set HF_TOKEN to a token that may read it."
            ) from error
        except errors.RevisionNotFoundError as error:
            raise ModelError(f"{repo} has no revision {revision!r} (branch, tag or commit).") from error
        except errors.EntryNotFoundError as error:
            raise ModelError(f"{repo} has no file {name!r} at revision {revision}.") from error
        except errors.HFValidationError as error:
            raise ModelError(f"{repo!r} is not a repository name such as ORGANISATION/NAME.") from error
        except errors.OfflineModeIsEnabled as error:
            raise ModelError("HF_HUB_OFFLINE is set: nothing is fetched. Unset it to pull models.") from error
        except errors.HfHubHTTPError as error:
            raise self._status(repo, error.response) from error
        except (ValueError, TypeError, KeyError) as error:
            raise self._not_a_hub() from error

    @contextmanager
    def _transport_translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise ModelError(f"HF_ENDPOINT={self.endpoint} is not an http:// or https:// URL.") from error
        except (httpx2.ReadError, httpx2.ReadTimeout, httpx2.RemoteProtocolError) as error:
            what = str(error) or type(error).__name__
            raise HubUnavailable(f"The connection to {self.endpoint} broke: {what}.") from error
        except httpx2.TransportError as error:
            raise HubUnavailable(
                f"{self.endpoint} cannot be reached: {str(error) or type(error).__name__}. Check the network "
                "and HTTPS_PROXY; for a mirror, set HF_ENDPOINT."
            ) from error

    def _gated(self, repo: str) -> ModelError:
        page = f"{self.endpoint}/{repo}"
        if self._token:
            return ModelError(
                f"{repo} is gated and the account of HF_TOKEN has no access: accept its licence at {page} "
                "with that account (some owners approve by hand), and let the token read gated models."
            )
        return ModelError(
            f"{repo} is gated: accept its licence at {page}, then set HF_TOKEN to a token of that account."
        )

    def _status(self, repo: str, response: httpx2.Response) -> ModelError:
        status = response.status_code
        if status == 401:
            remedy = "set HF_TOKEN, and accept the licence if there is one"
            if self._token:
                remedy = "HF_TOKEN (or the token `hf auth login` stored) is mistyped, expired or revoked"
            return ModelError(f"{self.endpoint} refuses {repo} (401): {remedy}.")
        if status == 403:
            return ModelError(
                f"{self.endpoint} forbids access to {repo} (403): accept its licence if it has one, and set "
                "HF_TOKEN to a token that may read it."
            )
        if status == 404:
            return ModelError(f"{self.endpoint} has no repository {repo} (404). Check the name.")
        if status in {408, 425, 429} or status >= 500:
            asked = response.headers.get("Retry-After", "")
            wait_s = min(60.0, float(asked)) if asked.isdecimal() else 0.0
            return HubUnavailable(f"{self.endpoint} answers {status} for {repo}. Try again later.", wait_s)
        return ModelError(f"{self.endpoint} answers {status} for {repo}.")

    def _not_a_hub(self) -> ModelError:
        return ModelError(
            f"{self.endpoint} does not answer like the Hugging Face Hub. Check HF_ENDPOINT, and that no "
            "proxy or login page stands between."
        )
