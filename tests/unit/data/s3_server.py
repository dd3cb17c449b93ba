"""An S3 server on this machine (moto's), and a bucket on it."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from moto.server import ThreadedMotoServer
from obstore.store import S3Store


@dataclass
class Bucket:
    """A bucket; `options` is what a reader needs to be told."""

    endpoint: str
    name: str = "bucket"

    @property
    def options(self) -> dict[str, str]:
        return {
            "aws_endpoint": self.endpoint,
            "aws_access_key_id": "key",
            "aws_secret_access_key": "secret",
            "aws_region": "us-east-1",
        }

    def put(self, key: str, content: bytes) -> None:
        store = S3Store(
            self.name,
            endpoint=self.endpoint,
            access_key_id="key",
            secret_access_key="secret",
            region="us-east-1",
            client_options={"allow_http": True},
        )
        obstore.put(store, key, content)

    def put_folder(self, folder: Path, prefix: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


@contextmanager
def s3_server() -> Iterator[Bucket]:
    """Start the server on a free port of the loopback interface, with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        bucket = Bucket(f"http://{host}:{port}")
        urllib.request.urlopen(
            urllib.request.Request(f"{bucket.endpoint}/{bucket.name}", method="PUT"), timeout=10
        ).read()
        yield bucket
    finally:
        server.stop()
