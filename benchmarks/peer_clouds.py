"""What the clouds' own Python clients do, one file after the other, in a process of its own.

``python peer_clouds.py s3|gs ENDPOINT BUCKET WORK ...`` with boto3 or google-cloud-storage beside it, and nothing of
this project. Works: ``make`` a bucket, ``put FILE KEY``, ``fetch KEY FILE`` and ``up FOLDER PREFIX``,
``down FOLDER PREFIX``, ``clear [PREFIX]``. Prints the seconds that it took, without starting and loading.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any


class S3:
    """boto3; its keys come from the environment."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        self._client = import_module("boto3").client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self._bucket = bucket

    def make(self) -> None:
        self._client.create_bucket(Bucket=self._bucket)

    def put(self, file: str, key: str) -> None:
        self._client.upload_file(file, self._bucket, key)

    def fetch(self, key: str, file: str) -> None:
        self._client.download_file(self._bucket, key, file)

    def put_small(self, file: Path, key: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=file.read_bytes())

    def fetch_small(self, key: str, file: Path) -> None:
        file.write_bytes(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())

    def keys(self, prefix: str) -> Iterable[str]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            yield from (each["Key"] for each in page.get("Contents", []))

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=key)


class Gs:
    """google-cloud-storage, with what it verifies by itself switched off."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        nobody = import_module("google.auth.credentials").AnonymousCredentials()
        self._client = import_module("google.cloud.storage").Client(
            project="test", credentials=nobody, client_options={"api_endpoint": endpoint}
        )
        self._bucket = self._client.bucket(bucket)

    def make(self) -> None:
        self._client.create_bucket(self._bucket)

    def put(self, file: str, key: str) -> None:
        self._bucket.blob(key).upload_from_filename(file, checksum=None)

    def fetch(self, key: str, file: str) -> None:
        self._bucket.blob(key).download_to_filename(file, checksum=None, raw_download=True)

    def put_small(self, file: Path, key: str) -> None:
        self.put(str(file), key)

    def fetch_small(self, key: str, file: Path) -> None:
        self.fetch(key, str(file))

    def keys(self, prefix: str) -> Iterable[str]:
        return [blob.name for blob in self._client.list_blobs(self._bucket, prefix=prefix)]

    def remove(self, key: str) -> None:
        self._bucket.blob(key).delete()


def work_of(cloud: Any, name: str, arguments: list[str]) -> Callable[[], object]:
    """The work of that name, ready to begin."""
    if name == "up":
        folder, prefix = Path(arguments[0]), arguments[1]
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return lambda: [cloud.put_small(file, f"{prefix}/{file.relative_to(folder)}") for file in files]
    if name == "down":
        folder, prefix = Path(arguments[0]), arguments[1]
        folder.mkdir(parents=True)
        keys = list(cloud.keys(f"{prefix}/"))
        return lambda: [cloud.fetch_small(key, folder / key.replace("/", "_")) for key in keys]
    if name == "clear":
        return lambda: [cloud.remove(key) for key in list(cloud.keys(*arguments or [""]))]
    known: dict[str, Callable[..., object]] = {"make": cloud.make, "put": cloud.put, "fetch": cloud.fetch}
    return lambda: known[name](*arguments)


if __name__ == "__main__":
    kind, endpoint, bucket, name, *rest = sys.argv[1:]
    work = work_of({"s3": S3, "gs": Gs}[kind](endpoint, bucket), name, rest)
    started = time.perf_counter()
    work()
    print(time.perf_counter() - started)
