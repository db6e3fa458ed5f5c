"""Stands for a team chat: sends one message by a signed webhook, waits for the answer's webhook, and prints it.

usage: python team_chat.py CHANNEL AUTHOR TEXT
"""

import http.server
import json
import os
import sys
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

BRIDGE = os.environ.get("BRIDGE_URL", "http://127.0.0.1:9000/incoming")
answers: list[dict[str, Any]] = []


class Answers(http.server.BaseHTTPRequestHandler):
    """Receives the bridge's webhooks."""

    def do_POST(self) -> None:
        """Believe what is signed; 204 tells the bridge that it need not send it again."""
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            answers.append(Webhook(os.environ["OUTGOING_SECRET"]).verify(body, dict(self.headers)))
            self.send_response(204)
        except (WebhookVerificationError, ValueError):
            self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print answers only."""


def send(channel: str, author: str, text: str) -> str:
    """Sign a message and send it; its id."""
    body = json.dumps({"channel": channel, "author": author, "text": text})
    message_id, now = f"msg_{uuid.uuid4().hex}", datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(os.environ["INCOMING_SECRET"]).sign(message_id, now, body),
    }
    try:
        urllib.request.urlopen(urllib.request.Request(BRIDGE, body.encode(), headers), timeout=10).close()
    except urllib.error.HTTPError as refused:
        sys.exit(f"the bridge answered {refused.code}: {refused.read().decode()}")
    return message_id


def main() -> None:
    """One message and its answer."""
    with http.server.HTTPServer(("127.0.0.1", 9001), Answers) as server:
        server.timeout = 60
        message_id = send(*sys.argv[1:4])
        while not any(answer["in_reply_to"] == message_id for answer in answers):
            before = len(answers)
            server.handle_request()
            if len(answers) == before:
                sys.exit("no answer within 60 s")
    print(answers[-1]["text"])


if __name__ == "__main__":
    main()
