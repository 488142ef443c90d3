"""A Hub of one dataset, me/stories, on this machine, for the real client to ask."""

import hashlib
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

import pyarrow
from pyarrow import parquet

REVISION = "a" * 40
CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: validation, path: data/validation-*}
---
"""


def stories(split, count):
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"story": [f"{split} story {i}.\n" for i in range(count)]}), file)
    return file.getvalue()


FILES = {
    "README.md": CARD.encode(),
    "data/train-00000-of-00001.parquet": stories("train", 101),
    "data/validation-00000-of-00001.parquet": stories("validation", 11),
}


def entry(path):
    content = FILES[path]
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


class Hub(BaseHTTPRequestHandler):
    """Answers about me/stories; everything else is not there."""

    def log_message(self, *_):
        pass

    def answer(self, code, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": len(content), "X-Repo-Commit": REVISION, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        self.answer(200, [entry(path) for path in wanted if path in FILES])

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        if path.startswith(f"/api/datasets/me/stories/tree/{REVISION}"):
            folder = path.partition(REVISION)[2].strip("/")
            inside = [name for name in FILES if name.rpartition("/")[0] == folder]
            folders = [] if folder else [{"type": "directory", "path": "data", "oid": "b" * 40}]
            self.answer(200, [*map(entry, inside), *folders])
        elif path.startswith("/api/datasets/me/stories"):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(200, {"id": "me/stories", "sha": REVISION, "tags": [], "siblings": siblings})
        elif path.startswith("/datasets/me/stories/resolve/") and path.split("/", 6)[6] in FILES:
            content = FILES[path.split("/", 6)[6]]
            about = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept_Ranges": "bytes"}
            asked = self.headers.get("Range")
            if not asked:
                self.answer(200, content, **about)
                return
            start, stop = asked.removeprefix("bytes=").split("-")
            part = content[int(start) : int(stop) + 1 if stop else None]
            last = int(start) + len(part) - 1
            self.answer(206, part, Content_Range=f"bytes {start}-{last}/{len(content)}", **about)
        else:
            error = "EntryNotFound" if "/resolve/" in path else "RepoNotFound"
            self.answer(404, {"error": error}, X_Error_Code=error)


@contextmanager
def hub_here():
    """Its address, for as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
