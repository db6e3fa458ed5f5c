"""A bot: a user that is a program. It joins the threads that it is invited to, and approves refunds up to a limit.

It holds nothing in memory that it could lose: after a restart it reads the invitations and the open questions again.
"""

import asyncio
import os
import re
import subprocess
import sys
from typing import Any

from narthex import client

URL = os.environ.get("NARTHEX_URL", "ws://127.0.0.1:8000/ws")
LIMIT = int(os.environ.get("LIMIT", "50"))


def token() -> str:
    """Against `narthex serve` in the same directory. In production ask your issuer for the bot's own token."""
    return subprocess.check_output(["narthex", "token", "--sub", "refund-bot"], text=True).strip()


async def catch_up(gateway: client.Gateway) -> None:
    """What happened before the bot was there: invitations, and questions in its threads."""
    for invitation in await gateway.threads.invitations():
        await join(gateway, invitation.thread_id)
    for thread in (await gateway.rpc("thread.list"))["threads"]:
        await answer_open_questions(gateway, thread["thread_id"])


async def join(gateway: client.Gateway, thread_id: str) -> None:
    """Accept an invitation."""
    await gateway.threads.accept(thread_id)
    print(f"joined {thread_id}", flush=True)
    await answer_open_questions(gateway, thread_id)


async def answer_open_questions(gateway: client.Gateway, thread_id: str) -> None:
    """Approve each refund up to the limit, and leave the others to people."""
    for question in (await gateway.rpc("thread.get", {"thread_id": thread_id}))["interrupts"]:
        amount = re.fullmatch(r"Refund (\d+) euros\?", question["text"])
        if amount is None:
            continue
        if int(amount[1]) > LIMIT:
            print(f"{amount[1]} euros are for a person to decide", flush=True)
            continue
        answer = {"interrupt_id": question["interrupt_id"], "payload": {"approved": True, "by": "refund-bot"}}
        try:
            await gateway.rpc("run.resume", {"run_id": question["run_id"], **answer})
            print(f"approved {amount[1]} euros", flush=True)
        except client.ClientError as error:  # another member was faster, or it is for others to answer
            print(error, flush=True)


async def main() -> None:
    """Connect, catch up, then follow the notices of the bot's own channel."""
    notices: asyncio.Queue[Any] = asyncio.Queue()
    async with client.connect(URL, get_token=token, on_notice=notices.put_nowait) as gateway:
        print("the bot is connected", flush=True)
        await catch_up(gateway)
        while True:
            notice = await notices.get()
            value = notice.get("value", {})
            if notice["name"] == "narthex.thread_invited":
                await join(gateway, value["threadId"])
            elif notice["name"] == "narthex.run_ended" and value["state"] == "interrupted":
                await answer_open_questions(gateway, value["threadId"])


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except client.Refused as refused:
        sys.exit(f"{refused.code}: {refused.detail} {refused.remedy}")
    except KeyboardInterrupt:
        pass
