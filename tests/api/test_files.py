"""Files over HTTP: what goes in comes out, whole or not at all, and only to whom it was given."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pymongo import MongoClient

from tests.bounds import assert_within
from tests.servers import Application, new_program, wait_until

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154"
    "08d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


def blobs(application: Application) -> set[str]:
    """The contents on the storage."""
    root = Path(application.settings["LOYALTY_STORAGE_PATH"]) / "files"
    return {path.name for path in root.glob("??/??/*")}


def leftovers(application: Application) -> list[str]:
    """Uploads and claims that nobody cleaned up."""
    root = Path(application.settings["LOYALTY_STORAGE_PATH"]) / "files" / "incoming"
    return [path.name for path in root.glob("*")]


def upload(api: httpx.Client, content: bytes, **options: object) -> dict[str, object]:
    answer = api.post("/v1/files", content=content, **options)  # type: ignore[arg-type]
    assert answer.status_code == 201, answer.text
    made: dict[str, object] = answer.json()
    return made


def test_what_was_uploaded_is_read_listed_and_opened(api: httpx.Client, application: Application) -> None:
    content = bytes(16) + os.urandom(299_984)  # no known kind of file begins with zeros
    answer = api.post("/v1/files", content=content, params={"name": "../röntgen\n.bin"})
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/files/{made['id']}"
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert (made["size"], made["content_type"], made["name"]) == (300_000, "application/octet-stream", "röntgen.bin")
    read = api.get(f"/v1/files/{made['id']}")
    assert read.json() == made
    assert api.get(f"/v1/files/{made['id']}", headers={"If-None-Match": read.headers["ETag"]}).status_code == 304
    assert api.get("/v1/files").json()["data"] == [made]
    opened = httpx.get(made["download_url"], timeout=30)
    assert opened.content == content
    assert opened.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in opened.headers["Content-Security-Policy"]
    assert opened.headers["Content-Disposition"].startswith("attachment")
    part = httpx.get(made["download_url"], headers={"Range": "bytes=10-19"}, timeout=30)
    assert (part.status_code, part.content) == (206, content[10:20])
    assert leftovers(application) == []


def test_a_chunked_upload_is_streamed(api: httpx.Client) -> None:
    parts = [os.urandom(100_000) for _ in range(5)]
    answer = api.post("/v1/files", content=iter(parts))
    assert answer.json()["sha256"] == hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_form_brings_its_name(api: httpx.Client) -> None:
    answer = api.post("/v1/files", files={"file": ("C:\\logo.png", PNG, "text/html")}, data={"note": "ignored"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["name"], made["content_type"], made["size"]) == ("logo.png", "image/png", len(PNG))
    assert httpx.get(made["download_url"], timeout=30).headers["Content-Disposition"].startswith("inline")


def test_a_form_of_many_megabytes_is_streamed(api: httpx.Client) -> None:
    content = os.urandom(5_000_000)
    answer = api.post("/v1/files", files={"file": ("large.bin", content)})
    assert answer.status_code == 201, answer.text
    assert answer.json()["sha256"] == hashlib.sha256(content).hexdigest()
    too_large = api.post("/v1/files", files={"file": ("large.bin", bytes(20 * 1024 * 1024 + 1))})
    assert (too_large.status_code, too_large.json()["code"]) == (413, "payload_too_large")


def test_a_form_needs_exactly_one_file(api: httpx.Client) -> None:
    two = api.post("/v1/files", files=[("a", ("a.txt", b"a")), ("b", ("b.txt", b"b"))])
    none = api.post("/v1/files", files={"note": (None, b"no file")})
    assert (two.status_code, two.json()["code"]) == (422, "validation_failed")
    assert (none.status_code, none.json()["code"]) == (422, "validation_failed")


@pytest.mark.parametrize(
    ("content", "declared", "told", "shown"),
    [
        (b"<html><script>alert(1)</script>", "text/plain", "application/octet-stream", "attachment"),
        (b'\xef\xbb\xbf \n<svg onload="alert(1)"/>', "image/png", "application/octet-stream", "attachment"),
        (b"#!/bin/sh\nrm -rf /\n", "text/html", "text/plain", "inline"),
        (b"a,b\n1,2\n", "text/csv; charset=utf-8", "text/csv", "inline"),
        (b'{"a": 1}', "application/json", "application/json", "inline"),
        (b"\x00\x01\x02", "text/plain", "application/octet-stream", "attachment"),
        (b"%PDF-1.7\n", "application/pdf", "application/pdf", "attachment"),
        (PNG, "text/html", "image/png", "inline"),
        ("Käse".encode("latin-1"), "text/plain", "application/octet-stream", "attachment"),
    ],
)
def test_the_content_tells_its_type(api: httpx.Client, content: bytes, declared: str, told: str, shown: str) -> None:
    made = upload(api, content, headers={"Content-Type": declared})
    assert made["content_type"] == told
    opened = httpx.get(str(made["download_url"]), timeout=30)
    assert opened.headers["Content-Type"].split(";")[0] == told
    assert opened.headers["Content-Disposition"].split(";")[0] == shown


def test_an_empty_upload_is_refused(api: httpx.Client) -> None:
    answer = api.post("/v1/files", content=b"")
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_is_refused_and_leaves_nothing(
    api: httpx.Client, application: Application, chunked: bool
) -> None:
    content = os.urandom(20 * 1024 * 1024 + 1)
    before = blobs(application)
    answer = api.post("/v1/files", content=iter([content]) if chunked else content)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert answer.json()["max_bytes"] == 20 * 1024 * 1024
    assert blobs(application) == before
    assert leftovers(application) == []


def test_a_key_uploads_once(api: httpx.Client) -> None:
    key = {"Idempotency-Key": "one"}
    first = api.post("/v1/files", content=b"the same", headers=key)
    again = api.post("/v1/files", content=b"the same", headers=key)
    other = api.post("/v1/files", content=b"another", headers=key)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert len(api.get("/v1/files").json()["data"]) == 1


def test_one_content_is_kept_once_and_beyond_its_last_file_for_backups(
    api: httpx.Client, application: Application
) -> None:
    content = os.urandom(1000)
    first, second = upload(api, content), upload(api, content)
    assert first["id"] != second["id"]
    assert api.delete(f"/v1/files/{first['id']}").status_code == 200
    assert httpx.get(str(first["download_url"]), timeout=30).status_code == 404
    assert httpx.get(str(second["download_url"]), timeout=30).content == content
    assert api.delete(f"/v1/files/{second['id']}").status_code == 200
    assert second["sha256"] in blobs(application)
    assert httpx.get(str(second["download_url"]), timeout=30).status_code == 404
    assert api.delete(f"/v1/files/{second['id']}").json()["code"] == "not_found"


def test_files_are_listed_newest_first_by_pages(api: httpx.Client) -> None:
    made = [upload(api, f"file {number}".encode())["id"] for number in range(5)]
    first = api.get("/v1/files", params={"limit": 3}).json()
    rest = api.get("/v1/files", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [file["id"] for file in first["data"] + rest["data"]] == made[::-1]
    assert rest["next_cursor"] is None


def test_a_program_sees_only_its_own_files(api: httpx.Client, other_api: httpx.Client) -> None:
    made = upload(api, b"mine")
    assert other_api.get(f"/v1/files/{made['id']}").json()["code"] == "not_found"
    assert other_api.delete(f"/v1/files/{made['id']}").json()["code"] == "not_found"
    assert other_api.get("/v1/files").json()["data"] == []


def test_a_link_cannot_be_forged(api: httpx.Client) -> None:
    url = str(upload(api, b"secret")["download_url"])
    signed, _, signature = url.rpartition(".")
    # Its first letter: the last one holds bits that mean nothing.
    forged = f"{signed}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    assert httpx.get(forged, timeout=30).json()["code"] == "not_found"
    assert httpx.get(url.rsplit("/", 1)[0] + "/x", timeout=30).json()["code"] == "not_found"


def test_an_upload_that_breaks_off_leaves_nothing(api: httpx.Client, application: Application, api_key: str) -> None:
    before = blobs(application)
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    for framing in (
        b"Content-Length: 100000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n",
        b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n" + form,
        b"Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n" + form,
        # Every chunk is whole, but the last boundary of the form is missing.
        b"Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
        + f"{len(form):x}\r\n".encode()
        + form
        + b"\r\n"
        + b"c350\r\n",
    ):
        with socket.create_connection(("127.0.0.1", application.port)) as connection:
            connection.sendall(
                b"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + api_key.encode() + b"\r\n" + framing
            )
            connection.sendall(b"x" * 50_000)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(10)
            answer = connection.recv(4096)
            assert answer == b"" or answer.split()[1] in (b"400", b"408")
    assert api.get("/v1/files").json()["data"] == []
    assert blobs(application) == before
    assert leftovers(application) == []


def test_nginx_serves_where_it_can(tmp_path: Path, application: Application, api: httpx.Client, mongo_uri: str) -> None:
    made = upload(api, b"served by nginx")
    server = Application(
        tmp_path / "application",
        mongo_uri=mongo_uri,
        database=application.settings["LOYALTY_MONGO_DATABASE"],
        redis_url=None,
        workers=1,
        accel_redirect="true",
        storage_path=application.settings["LOYALTY_STORAGE_PATH"],
        secret_key=application.settings["LOYALTY_SECRET_KEY"],
    )
    server.start()
    try:
        token = str(made["download_url"]).rsplit("/", 1)[1]
        answer = httpx.get(f"{server.url}/files/{token}", timeout=30)
    finally:
        server.stop()
    digest = str(made["sha256"])
    assert answer.headers["X-Accel-Redirect"] == f"/_files/{digest[:2]}/{digest[2:4]}/{digest}"
    assert answer.content == b""
    assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.fixture
def other_api(application: Application, mongo_uri: str) -> Iterator[httpx.Client]:
    """A client of another program."""
    secret = new_program(mongo_uri, application.settings["LOYALTY_MONGO_DATABASE"])
    with httpx.Client(base_url=application.url, headers={"Authorization": f"Bearer {secret}"}, timeout=30) as client:
        yield client


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 6 MB: ext4 on a loop device, or tmpfs where there is none."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")  # which CI is; developers need not be
    folder = tmp_path / "disk"
    folder.mkdir()
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(6 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=False).returncode != 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def own_application(folder: Path, mongo_uri: str, **settings: str) -> Iterator[tuple[Application, httpx.Client]]:
    """An application for one test, which may fill its disk or kill it."""
    database = f"files_{secrets.token_hex(6)}"
    server = Application(
        folder / "application", mongo_uri=mongo_uri, database=database, redis_url=None, workers=1, **settings
    )
    key = new_program(mongo_uri, database)
    server.start()
    try:
        with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
            yield server, client
    finally:
        server.stop()
        with MongoClient[dict[str, object]](mongo_uri) as connection:
            connection.drop_database(database)


def test_a_full_disk_says_so_and_recovers(small_disk: Path, tmp_path: Path, mongo_uri: str) -> None:
    with own_application(
        tmp_path, mongo_uri, storage_path=str(small_disk), files_reserve_bytes="0", files_max_bytes="1000000"
    ) as (server, api):
        kept = []
        for _ in range(20):
            answer = api.post("/v1/files", content=iter([os.urandom(600_000)]), timeout=30)
            if answer.status_code != 201:
                break
            kept.append(answer.json())
        assert 0 < len(kept) < 20
        assert answer.status_code == 507
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == "insufficient_storage"
        assert {file["id"] for file in api.get("/v1/files").json()["data"]} == {file["id"] for file in kept}
        assert blobs(server) == {file["sha256"] for file in kept}
        assert leftovers(server) == []
        for file in kept:  # what was there before is untouched
            content = httpx.get(file["download_url"], timeout=30).content
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
        api.delete(f"/v1/files/{kept[0]['id']}")
        next(small_disk.rglob(kept[0]["sha256"])).unlink()  # as housekeeping does when the grace is over
        assert api.post("/v1/files", content=os.urandom(500_000)).status_code == 201


def test_a_disk_that_fills_up_while_writing_says_so(small_disk: Path, tmp_path: Path, mongo_uri: str) -> None:
    """Nothing is announced and there is no reserve: only the write itself can find out."""
    with own_application(
        tmp_path, mongo_uri, storage_path=str(small_disk), files_reserve_bytes="0", files_max_bytes="2048"
    ) as (server, api):
        assert api.post("/v1/files", content=b"first").status_code == 201
        space = os.statvfs(small_disk)
        with (small_disk / "ballast").open("wb") as ballast:
            ballast.write(bytes(space.f_bavail * space.f_frsize - 16 * 1024))
            ballast.flush()
            os.fsync(ballast.fileno())
        answers = [api.post("/v1/files", content=os.urandom(2000)) for _ in range(30)]
        assert {answer.status_code for answer in answers} == {201, 507}
        kept = {answer.json()["sha256"] for answer in answers if answer.status_code == 201}
        assert blobs(server) - {hashlib.sha256(b"first").hexdigest()} == kept
        assert leftovers(server) == []


def test_the_reserve_is_left_free(tmp_path: Path, mongo_uri: str) -> None:
    space = os.statvfs(tmp_path)
    # The whole disk: what is free of it changes while the test runs.
    everything = str(space.f_blocks * space.f_frsize)
    with own_application(tmp_path, mongo_uri, files_reserve_bytes=everything) as (_, api):
        answer = api.post("/v1/files", content=b"one more")
        assert (answer.status_code, answer.json()["code"]) == (507, "insufficient_storage")


def test_a_storage_that_is_away_is_not_the_clients_fault(tmp_path: Path, mongo_uri: str) -> None:
    with own_application(tmp_path, mongo_uri, storage_path=str(tmp_path / "not-mounted")) as (_, api):
        answer = api.post("/v1/files", content=b"where to?")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


def buy(api: httpx.Client, number: str) -> httpx.Response:
    event = {
        "source": "till",
        "id": number,
        "type": "purchase",
        "member": {"external_id": "ada"},
        "amount": "1.00",
        "currency": "USD",
    }
    return api.post("/v1/events", json=event)


def assert_only_files_are_away(api: httpx.Client, kept: str, *, readable: bool) -> None:
    """Points as ever, ready but degraded, 503 with Retry-After for contents; and all of it soon."""
    began = time.monotonic()
    ready = api.get("/readyz")
    assert (ready.status_code, ready.json()["parts"]["storage"]["state"]) == (200, "degraded")
    for _ in range(6):  # more than there are threads, were each of them to hang
        answer = api.post("/v1/files", content=b"where to?")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    opened = api.get(kept)
    assert opened.status_code == (200 if readable else 503)
    assert buy(api, secrets.token_hex(8)).status_code == 201
    assert api.get("/v1/members/ext:ada/balance").status_code == 200
    assert_within(10, time.monotonic() - began)


def assert_files_are_back(api: httpx.Client, kept: str) -> None:
    def back() -> bool:
        return bool(api.get("/readyz").json()["parts"]["storage"]["state"] == "up")

    wait_until(back, timeout_s=10, failure=lambda: "the storage was not taken back")
    assert api.get(kept).content == b"kept"
    upload(api, b"again")


def test_a_share_that_is_gone_takes_only_the_files_with_it(tmp_path: Path, mongo_uri: str) -> None:
    share = tmp_path / "mounted" / "share"
    share.mkdir(parents=True)
    with own_application(tmp_path, mongo_uri, storage_path=str(share)) as (_, api):
        kept = upload(api, b"kept")
        link = str(kept["download_url"])
        share.rename(tmp_path / "elsewhere")
        assert_only_files_are_away(api, link, readable=False)
        assert api.delete(f"/v1/files/{kept['id']}").status_code == 200  # its content goes with housekeeping
        (tmp_path / "elsewhere").rename(share)
        assert api.get(f"/v1/files/{kept['id']}").status_code == 404
        upload(api, b"again")


def test_a_disk_that_became_read_only_takes_only_the_files_with_it(
    small_disk: Path, tmp_path: Path, mongo_uri: str
) -> None:
    with own_application(tmp_path, mongo_uri, storage_path=str(small_disk), files_reserve_bytes="0") as (_, api):
        link = str(upload(api, b"kept")["download_url"])
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        assert_only_files_are_away(api, link, readable=True)
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        assert_files_are_back(api, link)


def test_a_storage_that_hangs_takes_only_the_files_with_it(small_disk: Path, tmp_path: Path, mongo_uri: str) -> None:
    """Writes to a frozen file system wait in the kernel until it thaws; no signal ends them but the last one."""
    with own_application(tmp_path, mongo_uri, storage_path=str(small_disk), files_reserve_bytes="0") as (_, api):
        link = str(upload(api, b"kept")["download_url"])
        subprocess.run(["fsfreeze", "--freeze", str(small_disk)], check=True)
        try:
            assert_only_files_are_away(api, link, readable=False)
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(small_disk)], check=True)
        assert_files_are_back(api, link)


def test_kill_9_in_the_middle_of_an_upload_leaves_nothing_visible(tmp_path: Path, mongo_uri: str) -> None:
    with own_application(tmp_path, mongo_uri) as (server, api):
        whole = upload(api, b"whole")

        def dying() -> Iterator[bytes]:
            yield os.urandom(1_000_000)
            wait_until(lambda: bool(leftovers(server)), timeout_s=5, failure=lambda: "the upload never began")
            server.kill()
            yield os.urandom(1_000_000)

        with pytest.raises(httpx.TransportError):
            api.post("/v1/files", content=dying())
        server.start()
        assert [file["id"] for file in api.get("/v1/files").json()["data"]] == [whole["id"]]
        assert blobs(server) == {whole["sha256"]}
        assert httpx.get(str(whole["download_url"]), timeout=30).content == b"whole"
        assert len(leftovers(server)) == 1  # housekeeping's to remove: see tests/integration/files
