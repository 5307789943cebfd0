"""The server of a webhook, for tests that kill it.

    python3 webhook_server.py PORT FILE

Adds the id and the body of each request to the file, as a line of JSON, and answers only then.
"""

import http.server
import json
import sys

taken = open(sys.argv[2], "ab", buffering=0)


class Hook(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        line = {"id": self.headers["idempotency-key"], "body": json.loads(body)}
        # One call, so that a kill leaves whole lines only.
        taken.write(json.dumps(line).encode() + b"\n")
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hook).serve_forever()
