"""Fetching files over HTTPS: resumed, checked, and put in place whole or not at all."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlalign.data.saving import locked, replacing
from rlalign.errors import DatasetError, DownloadError

if TYPE_CHECKING:
    import requests
    from tqdm import tqdm

    from rlalign.data.dataset import Dataset

TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces
ATTEMPTS = 5  # connections in a row that bring nothing new
WAIT = 0.5  # seconds before the second such attempt, doubled before each further one
_PIECE = 1 << 16  # what a broken connection loses at most


def cache_folder(cache: str | Path | None = None) -> Path:
    """Return the folder of downloaded and collected datasets.

    Args:
        cache: a folder to use instead of ``RLALIGN_CACHE`` and of the user's cache folder.
    """
    if cache is not None:
        return Path(cache).expanduser()
    if named := os.environ.get("RLALIGN_CACHE"):
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("rlalign"))


def load_d4rl(name: str, *, cache: Path | None = None) -> Dataset:
    """Load D4RL's dataset `name`, downloading its file where the cache lacks it.

    Raises:
        DatasetError: if D4RL has no such dataset, or the file is damaged.
        DownloadError: if it cannot be fetched; the message names the URL and where to put the file.
    """
    from rlalign.data.d4rl import task as find
    from rlalign.data.hdf5 import read_hdf5

    task = find(name)
    path = cache_folder(cache) / "d4rl" / task.filename
    if path.exists():
        require_as_downloaded(path)
    else:
        download(task.url, path)
    return read_hdf5(path, name=f"d4rl/{name}", task=task)


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: bool = True,
) -> Path:
    """Fetch `url` into `path`, going on where an earlier attempt stopped.

    What has arrived is kept beside `path` with the suffix ``.part`` until the whole is there, and
    which version of the file it is with the suffix ``.part.version``: an earlier attempt is gone on
    with only where the server's file is still that one. The whole's checksum stays there with the
    suffix ``.sha256``, see `require_as_downloaded`.

    Args:
        url: HTTPS address; plain HTTP is refused except on this machine.
        path: where the file goes; replaced in one step when everything has arrived.
        sha256: expected checksum in hexadecimal, None where unknown.
        size: expected bytes, None where unknown; the server's own figure is always checked.
        progress: whether to draw a progress bar.

    Raises:
        DownloadError: if the file cannot be fetched or is not the one expected.
        DatasetError: if it cannot be written.
    """
    _require_https(url)
    part = path.with_name(path.name + ".part")
    with locked(path):
        if path.exists():
            return path  # another process was faster
        try:
            _fetch(url, path, part, size, progress)
        except OSError as error:
            reason = error.strerror or str(error)
            raise DatasetError(f"{path}: the file could not be written ({reason})") from error
        found = _checksum(part)
        if sha256 is not None and found != sha256:
            _remove(part)
            raise DownloadError(f"{url}: the file's sha256 is {found}, {sha256} was expected")
        with replacing(_beside(path)) as temporary:
            temporary.write_text(f"{found}  {path.name}\n")  # as `sha256sum --check` reads it
        with replacing(path) as temporary:
            part.replace(temporary)
        _version_of(part).unlink(missing_ok=True)
    return path


def require_as_downloaded(path: Path) -> None:
    """Raise `DatasetError` where a file is not any more what `download` put there.

    A file put there by hand has no checksum beside it and is taken as it is.
    """
    beside = _beside(path)
    if not beside.is_file():
        return
    wanted, found = beside.read_text().partition(" ")[0], _checksum(path)
    if found != wanted:
        raise DatasetError(
            f"{path}: the file has changed since it was downloaded (sha256 {found}, was {wanted}); "
            f"delete it to download it again, or delete {beside.name} to keep it"
        )


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _version_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_of(part).unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if parts.scheme != "https" and not (parts.scheme == "http" and here):
        raise DownloadError(f"{url}: only https addresses are downloaded from")


def _by_hand(url: str, path: Path, reason: str) -> DownloadError:
    return DownloadError(
        f"{url} could not be downloaded ({reason}); fetch it elsewhere and put it at {path}"
    )


def _fetch(url: str, path: Path, part: Path, size: int | None, progress: bool) -> None:
    """Append to `part` until it is whole; a connection that brought something earns another."""
    import requests
    from tqdm import tqdm

    failures = 0
    with (
        requests.Session() as session,
        tqdm(
            desc=path.name,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=None if progress else True,  # None: only on a terminal
        ) as bar,
    ):
        while True:
            have = part.stat().st_size if part.exists() else 0
            try:
                total = _continue(session, url, part, have, size, bar)
            except requests.RequestException as error:
                got = part.stat().st_size if part.exists() else 0
                failures = 0 if got > have else failures + 1
                if failures >= ATTEMPTS or not _worth_retrying(error):
                    raise _by_hand(url, path, _reason(error)) from error
                if failures:
                    time.sleep(WAIT * 2 ** (failures - 1))
                continue
            arrived = part.stat().st_size
            if total is not None and arrived != total:
                _remove(part)
                raise _by_hand(url, path, f"{arrived} bytes arrived, {total} were expected")
            return


def _continue(
    session: requests.Session, url: str, part: Path, have: int, size: int | None, bar: tqdm[Any]
) -> int | None:
    """Fetch what is missing of `part` over one connection; return the whole's bytes if known."""
    import requests

    version = _version_of(part)
    known = version.read_text() if have and version.exists() else ""
    # "identity": a compressed answer would make ranges and lengths mean something else.
    headers = {"Accept-Encoding": "identity"}
    if known:  # a server whose file is another by now answers with the whole of it
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        _require_https(answer.url)
        told = answer.headers.get("Content-Range", "")
        same = _version(answer) in ("", known)  # not every server knows If-Range
        if known and answer.status_code == requests.codes.requested_range_not_satisfiable:
            if same and told.rpartition("/")[2] == str(have):
                return size if size is not None else have
            _remove(part)  # what is here is no beginning of what is there
            raise requests.ConnectionError("the file changed on the server")
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        if resumed and not (known and same and told.startswith(f"bytes {have}-")):
            _remove(part)
            raise requests.ConnectionError("the server sent another part than the missing one")
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else size
        if size is not None and total != size:
            _remove(part)
            raise requests.HTTPError(f"the server offers {total} bytes, {size} were expected")
        bar.total, bar.n = total, start
        with part.open("ab" if resumed else "wb") as file:
            if not resumed:  # only now that nothing of another version is left in the file
                version.write_text(_version(answer))
            for piece in answer.iter_content(_PIECE):
                file.write(piece)
                bar.update(len(piece))
    return total


def _version(answer: requests.Response) -> str:
    """What the server calls this version of its file: a strong ETag, or else a date, or nothing."""
    tag = answer.headers.get("ETag", "")
    # A weak one may stay while bytes change, and If-Range takes none.
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _worth_retrying(error: requests.RequestException) -> bool:
    """Return whether another try could help: not after a refusal, nor for a file unlike the one."""
    import requests

    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code >= 500
    return isinstance(
        error,
        requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError,
    ) and not _no_such_host(error)


def _no_such_host(error: Exception) -> bool:
    return "NameResolutionError" in str(error) or "ProxyError" in type(error).__name__


def _reason(error: requests.RequestException) -> str:
    import requests

    if isinstance(error, requests.HTTPError):
        if error.response is None:
            return str(error)
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if _no_such_host(error):
        return "the server cannot be reached; is this machine offline?"
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    return "the connection failed or broke off again and again"
