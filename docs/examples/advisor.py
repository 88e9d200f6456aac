"""An advisor for the policy `http`: one prompt node per 8 waiting requests, two per decoder.

python advisor.py 8700        # and in the settings: advisor: {url: "http://127.0.0.1:8700"}
"""

import json
import math
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Advisor(BaseHTTPRequestHandler):
    """Answers each snapshot that is posted to it."""

    def do_POST(self):
        """Read a snapshot and answer with counts, or with nothing at all."""
        size = int(self.headers["Content-Length"])
        snapshot = json.loads(self.rfile.read(size))["snapshot"]
        queue = snapshot["prompt"]["queue"]
        if queue is None:  # Unknown is not zero: say nothing, and the target is held.
            self.send_response(204)
            self.end_headers()
            return
        prompt = max(1, math.ceil(queue["value"] / 8))
        answer = {
            "prompt": prompt,
            "decoder": math.ceil(prompt / 2),
            "why": f"queue {queue['value']:g}",
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


HTTPServer(("127.0.0.1", int(sys.argv[1])), Advisor).serve_forever()
