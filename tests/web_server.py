"""A web server of this machine, for tests of volumes behind a URL."""

import contextlib
import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Whole(SimpleHTTPRequestHandler):
    """Serves a folder, whole files only, without lines on stderr."""

    def log_message(self, *_):
        pass


class Parts(Whole):
    """Sends parts of files, too; with `broken` set, it fails for chunks."""

    broken = False

    def do_GET(self):
        if self.broken and "/c/" in self.path:
            self.send_error(503)
            return
        asked, path = self.headers.get("Range"), Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, last = asked.removeprefix("bytes=").split("-")
        begin = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        self.wfile.write(data[begin:end])


@contextlib.contextmanager
def serving(folder, handler=Parts):
    """A web server of this machine for a folder; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
