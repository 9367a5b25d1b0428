"""A hub on this machine: what `huggingface_hub` asks of one, for models of one revision."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def blob_name(content: bytes, large: bool) -> str:
    """As the hub names contents: large ones by SHA-256, small ones as Git does."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def serving(models: Mapping[str, Path], damaged: str = "") -> Iterator[tuple[str, list[str]]]:
    """(address, paths asked for) of a hub with these folders as models; of the `damaged` file the last byte differs."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.partition("?")[0]
            asked.append(path)
            for model, folder in models.items():
                if path.startswith(f"/api/models/{model}/tree/"):
                    return self.answer(json.dumps([self.row(file) for file in self.files(folder)]).encode())
                if path.startswith(f"/api/models/{model}"):
                    revision = path.removeprefix(f"/api/models/{model}").removeprefix("/revision/") or "main"
                    if revision not in ("main", COMMIT):
                        return self.missing("RevisionNotFound")
                    names = [{"rfilename": file.name} for file in self.files(folder)]
                    return self.answer(json.dumps({"id": model, "sha": COMMIT, "siblings": names}).encode())
                if path.startswith(f"/{model}/resolve/"):
                    name = path.split("/", 5)[-1]
                    if not (folder / name).is_file():
                        return self.missing("EntryNotFound")
                    return self.file(folder / name)
            return self.missing("RepoNotFound")

        def files(self, folder: Path) -> list[Path]:
            return sorted(path for path in folder.iterdir() if path.is_file())

        def row(self, file: Path) -> dict:
            content = file.read_bytes()
            row = {"type": "file", "path": file.name, "size": len(content), "oid": blob_name(content, False)}
            if file.suffix == ".safetensors":
                row["lfs"] = {"oid": blob_name(content, True), "size": len(content), "pointerSize": 130}
            return row

        def file(self, file: Path) -> None:
            content = file.read_bytes()
            tag = blob_name(content, file.suffix == ".safetensors")
            if file.name == damaged:
                content = content[:-1] + bytes([content[-1] ^ 1])
            self.answer(content, {"ETag": f'"{tag}"', "X-Linked-ETag": f'"{tag}"', "X-Linked-Size": str(len(content))})

        def missing(self, code: str) -> None:
            self.answer(b"{}", {"X-Error-Code": code}, 404)

        def answer(self, content: bytes, headers: Mapping[str, str] = {}, status: int = 200) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
