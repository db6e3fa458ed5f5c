"""`Gateway.threads` against a real gateway: inviting, answering, leaving, blocking."""

from __future__ import annotations

from pathlib import Path

from narthex import client
from narthex.testing import gateway


async def test_members_and_invitations(tmp_path: Path) -> None:
    """Every method does what its RPC does."""
    async with gateway(tmp_path) as running:

        def person(name: str) -> str:
            return running.token(name, plan="mid", name=name.title())

        async with (
            client.connect(running.ws, get_token=lambda: person("ada"), use_proxy=False) as ada,
            client.connect(running.ws, get_token=lambda: person("bob"), use_proxy=False) as bob,
        ):
            threads = [(await ada.rpc("thread.create", {"title": f"T{n}"}))["thread_id"] for n in range(3)]
            for thread in threads:
                assert await ada.threads.add_member(thread, "bob") == "invited"
            shown = await bob.threads.invitations()
            assert {(one.thread_id, one.invited_by, one.inviter_name) for one in shown} == {
                (thread, "ada", "Ada") for thread in threads
            }
            await bob.threads.accept(threads[0])
            assert await ada.threads.add_member(threads[0], "bob") == "member"
            declined = await bob.threads.decline([threads[1], "no-such"])
            assert declined == client.Many(done=[threads[1]], failed={"no-such": "invitation_not_found"})
            await ada.threads.remove_member(threads[2], "bob")
            assert await bob.threads.invitations() == []
            assert await bob.threads.leave([threads[0]]) == client.Many(done=[threads[0]], failed={})
            assert await ada.threads.link(threads[2]) is None
            made = await ada.threads.make_link(threads[2], days=1)
            open_link = await ada.threads.link(threads[2])
            assert open_link is not None
            assert (open_link.created_by, open_link.expires_at) == ("ada", made.expires_at)
            linked = await bob.threads.preview(made.token)
            assert (linked.title, linked.creator_name, linked.members, linked.role) == ("T2", "Ada", 1, "")
            assert await bob.threads.join(made.token) == threads[2]
            assert (await bob.threads.preview(made.token)).thread_id == threads[2]
            await ada.threads.revoke_link(threads[2])
            assert await ada.threads.link(threads[2]) is None
            await bob.threads.block("ada")
            assert await bob.threads.blocked() == ["ada"]
            assert await ada.threads.add_member(threads[1], "bob") == "invited"
            assert await bob.threads.invitations() == []
            await bob.threads.unblock("ada")
            assert await bob.threads.blocked() == []
