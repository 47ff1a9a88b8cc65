"""Downloads against a server on this machine that breaks off, refuses and lies."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import pytest

from rlalign.data import d4rl
from rlalign.data import download as module
from rlalign.data.dataset import load_dataset
from rlalign.data.download import cache_folder, download
from rlalign.errors import DatasetError, DownloadError
from tests.data.test_hdf5 import episodes, write

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    """How the server answers, and what it was asked."""

    ranges: bool = True
    break_after: int | None = None  # bytes sent before the connection is cut
    status: int = 200
    claimed: int | None = None  # Content-Length that is announced
    content: bytes = CONTENT
    version: dict[str, str] = field(default_factory=lambda: {"ETag": '"first"'})
    knows_if_range: bool = True
    off_by: int = 0  # how far the range that is sent begins before the one asked for
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()
    monkeypatch.setattr(module, "WAIT", 0.0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            behaviour.asked.append(asked)
            if behaviour.status != 200:
                self.send_error(behaviour.status)
                return
            wanted = self.headers.get("If-Range")
            another = wanted is not None and wanted not in behaviour.version.values()
            whole = not behaviour.ranges or (another and behaviour.knows_if_range)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not whole else 0
            start -= behaviour.off_by if start else 0
            body = behaviour.content[start:]
            if start and not body:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(behaviour.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                size = len(behaviour.content)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            for name, value in behaviour.version.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(behaviour.claimed or len(body)))
            self.end_headers()
            sent = body if behaviour.break_after is None else body[: behaviour.break_after]
            self.wfile.write(sent)
            self.close_connection = True

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/data.hdf5", behaviour
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def begun(path: Path, content: bytes, version: str = '"first"') -> Path:
    """Leave behind what an earlier attempt at `path` would have; the version may be unknown."""
    path.with_name(path.name + ".part").write_bytes(content)
    if version:
        path.with_name(path.name + ".part.version").write_text(version)
    return path


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_file_arrives_whole_and_alone(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    path = download(url, tmp_path / "deep" / "a.hdf5", sha256=DIGEST, size=len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert only(path.parent) == ["a.hdf5", "a.hdf5.sha256"]
    beside = (path.parent / "a.hdf5.sha256").read_text()
    assert beside == f"{DIGEST}  a.hdf5\n"


def test_broken_connections_are_resumed(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.break_after = 300_000
    path = download(url, tmp_path / "a.hdf5", sha256=DIGEST, progress=False)
    assert path.read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for asked in behaviour.asked[1:] if asked]
    assert len(starts) == 3
    assert all(b - a > 200_000 for a, b in itertools.pairwise([0, *starts]))


def test_earlier_session_is_continued(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    path = download(url, begun(tmp_path / "a.hdf5", CONTENT[:500_000]), sha256=DIGEST)
    assert path.read_bytes() == CONTENT
    assert behaviour.asked == ["bytes=500000-"]
    assert only(tmp_path) == ["a.hdf5", "a.hdf5.sha256"]


@pytest.mark.parametrize(
    "version",
    [
        {"ETag": '"second"'},
        {"ETag": 'W/"first"', "Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"},
    ],
)
@pytest.mark.parametrize("knows_if_range", [True, False])
def test_file_that_changed_on_the_server_is_not_spliced(
    server: tuple[str, Behaviour], tmp_path: Path, version: dict[str, str], knows_if_range: bool
) -> None:
    url, behaviour = server
    behaviour.version, behaviour.knows_if_range = version, knows_if_range
    path = begun(tmp_path / "a.hdf5", b"x" * 500_000)
    assert download(url, path).read_bytes() == CONTENT
    assert behaviour.asked[0] == "bytes=500000-"
    assert only(tmp_path) == ["a.hdf5", "a.hdf5.sha256"]


def test_date_is_the_version_where_there_is_no_strong_tag(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    date = "Tue, 02 Jan 2024 00:00:00 GMT"
    behaviour.version = {"ETag": 'W/"weak"', "Last-Modified": date}
    behaviour.break_after, behaviour.claimed = 0, len(CONTENT)
    with pytest.raises(DownloadError, match="broke off"):
        download(url, tmp_path / "a.hdf5")
    assert (tmp_path / "a.hdf5.part.version").read_text() == date


def test_part_of_an_unknown_version_starts_over(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    path = begun(tmp_path / "a.hdf5", b"x" * 500_000, version="")
    assert download(url, path).read_bytes() == CONTENT
    assert behaviour.asked == [None]


def test_another_range_than_the_missing_one_starts_over(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.off_by = 10
    path = begun(tmp_path / "a.hdf5", CONTENT[:500_000])
    assert download(url, path).read_bytes() == CONTENT
    assert behaviour.asked == ["bytes=500000-", None]


def test_complete_part_needs_no_more_bytes(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    assert download(url, begun(tmp_path / "a.hdf5", CONTENT)).read_bytes() == CONTENT
    assert behaviour.asked == [f"bytes={len(CONTENT)}-"]


def test_server_without_ranges_starts_over(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.ranges = False
    path = begun(tmp_path / "a.hdf5", b"x" * 1000)
    assert download(url, path).read_bytes() == CONTENT
    assert behaviour.asked == ["bytes=1000-"]


def test_part_longer_than_the_file_starts_over(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    path = begun(tmp_path / "a.hdf5", CONTENT + b"more")
    assert download(url, path).read_bytes() == CONTENT
    assert len(behaviour.asked) == 2


def test_missing_file_names_url_and_place(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.status = 404
    with pytest.raises(DownloadError) as caught:
        download(url, tmp_path / "a.hdf5")
    message = str(caught.value)
    assert url in message
    assert "404" in message
    assert str(tmp_path / "a.hdf5") in message
    assert len(behaviour.asked) == 1  # asking again would not help
    assert not (tmp_path / "a.hdf5").exists()


def test_failing_server_is_asked_a_few_times(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.status = 503
    with pytest.raises(DownloadError, match="answered 503"):
        download(url, tmp_path / "a.hdf5")
    assert len(behaviour.asked) == module.ATTEMPTS


def test_short_file_is_never_put_in_place(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.break_after, behaviour.claimed = 0, len(CONTENT)
    with pytest.raises(DownloadError, match="broke off"):
        download(url, tmp_path / "a.hdf5")
    assert not (tmp_path / "a.hdf5").exists()


def test_unexpected_length_is_refused(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, _ = server
    with pytest.raises(DownloadError, match=f"offers {len(CONTENT)} bytes, 17 were expected"):
        download(url, tmp_path / "a.hdf5", size=17)


def test_wrong_checksum_is_refused_and_removed(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.content = CONTENT[:-1] + b"!"
    with pytest.raises(DownloadError, match="sha256"):
        download(url, tmp_path / "a.hdf5", sha256=DIGEST)
    assert not only(tmp_path)


@pytest.fixture
def d4rl_at(server: tuple[str, Behaviour], monkeypatch: pytest.MonkeyPatch) -> Iterator[Behaviour]:
    """D4RL's server is the one on this machine."""
    url, behaviour = server
    monkeypatch.setattr("rlalign.data.d4rl.BASE_URL", url.removesuffix("data.hdf5"))
    d4rl._table.cache_clear()
    yield behaviour
    d4rl._table.cache_clear()


def test_a_dataset_that_has_changed_since_its_download_is_refused(
    d4rl_at: Behaviour, tmp_path: Path
) -> None:
    arrays = episodes([5, 6], [True, False], obs=11, act=3)
    d4rl_at.content = write(tmp_path / "there.hdf5", arrays).read_bytes()
    name = "d4rl/hopper-medium-v2"
    first = load_dataset(name, cache=tmp_path)
    assert load_dataset(name, cache=tmp_path).fingerprint == first.fingerprint
    assert len(d4rl_at.asked) == 1

    path = tmp_path / "d4rl" / "hopper_medium-v2.hdf5"
    with h5py.File(path, "r+") as file:
        file["rewards"][3] = 17.0
    with pytest.raises(DatasetError, match="has changed since it was downloaded") as caught:
        load_dataset(name, cache=tmp_path)
    assert str(path) in str(caught.value)
    path.with_name(path.name + ".sha256").unlink()  # now it is one put there by hand
    assert load_dataset(name, cache=tmp_path).rewards[3] == 17.0


def test_plain_http_to_other_machines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="only https"):
        download("http://example.org/a.hdf5", tmp_path / "a.hdf5")
    with pytest.raises(DownloadError, match="only https"):
        download("file:///etc/passwd", tmp_path / "a.hdf5")


def test_offline_message_tells_what_to_do_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlalign.data.d4rl.BASE_URL", "https://no-such-host.invalid/")
    monkeypatch.setenv("no_proxy", "*")
    d4rl._table.cache_clear()
    try:
        with pytest.raises(DownloadError) as caught:
            load_dataset("d4rl/hopper-medium-v2", cache=tmp_path)
    finally:
        d4rl._table.cache_clear()
    message = str(caught.value)
    assert "https://no-such-host.invalid/gym_mujoco_v2/hopper_medium-v2.hdf5" in message
    assert str(tmp_path / "d4rl" / "hopper_medium-v2.hdf5") in message
    assert "offline" in message
    assert "\n" not in message


def test_folder_that_cannot_be_made_is_reported(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="could not be written"):
        download(server[0], tmp_path / "file" / "a.hdf5")


def test_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLALIGN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder("elsewhere") == Path("elsewhere")
    monkeypatch.delenv("RLALIGN_CACHE")
    assert cache_folder().name == "rlalign"
