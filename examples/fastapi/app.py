"""A shop: its HTTP API in FastAPI, an agent that answers questions about orders, and the gateway, on one port."""

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from starlette.routing import Mount

import narthex

DATABASE = "shop.db"


class NewOrder(BaseModel):
    """What a customer orders."""

    item: str


class Order(NewOrder):
    """An order, and where it is."""

    id: int
    status: str


class Status(BaseModel):
    """A new status of an order."""

    status: str


def query(statement: str, *values: object) -> list[Order]:
    """Run one statement in a connection of its own; both callers below run in threads."""
    with closing(sqlite3.connect(DATABASE)) as database, database:
        rows = database.execute(statement, values).fetchall()
    return [Order(id=number, item=item, status=status) for number, item, status in rows]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Create the table. The gateway runs this before it serves, and what is after `yield` when it has stopped."""
    query("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT, status TEXT)")
    yield


api = FastAPI(lifespan=lifespan)


@api.post("/orders", status_code=201)
def order(new: NewOrder) -> Order:
    """Place an order."""
    return query(
        "INSERT INTO orders (item, status) VALUES (?, 'packed') RETURNING id, item, status", new.item
    )[0]


@api.put("/orders/{number}")
def move(number: int, status: Status) -> Order:
    """Say where an order is now."""
    moved = query(
        "UPDATE orders SET status = ? WHERE id = ? RETURNING id, item, status", status.status, number
    )
    if not moved:
        raise HTTPException(404, f"There is no order {number}.")
    return moved[0]


@narthex.agent(description="Answers questions about orders", suggestions=["Where is order 1?"])
def clerk(run: narthex.RunInput) -> Iterator[str]:
    """Look the order up. A function without `async` runs in a thread, where it may wait for a database."""
    number = re.search(r"\d+", run.messages[-1].content)
    if number is None:
        yield "Which order? Tell me its number."
        return
    found = query("SELECT id, item, status FROM orders WHERE id = ?", int(number[0]))
    yield (
        f"Order {found[0].id} ({found[0].item}) is {found[0].status}."
        if found
        else f"There is no order {number[0]}."
    )


gateway = narthex.create_gateway({"port": 8000}, agents=[clerk], routes=[Mount("/shop", app=api)])

if __name__ == "__main__":
    gateway.run()
