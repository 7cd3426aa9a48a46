"""The agent of a task: metadata for whoever asks, and a role's credentials."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS, TASK_ID, CREDENTIAL = sys.argv[1:]
ARN = f"arn:aws:ecs:eu-west-1:123456789012:task/cluster/{TASK_ID}"
ANSWERS = {
    "/v4/container/task": {"TaskARN": ARN, "Family": "web", "Revision": "7", "LaunchType": "FARGATE"},
    "/v2/credentials": {"SecretAccessKey": CREDENTIAL},
}


class Agent(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(ANSWERS.get(self.path, {})).encode()
        self.send_response(200 if self.path in ANSWERS else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer((ADDRESS, 80), Agent).serve_forever()
