"""The company's auth service: it says whose a token is. It has no fault: a bad token gets 401, and quickly."""

import os

import jwt
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

app = FastAPI()


class Question(BaseModel):
    """Whose is this token?"""

    token: str


@app.post("/introspect")
def introspect(question: Question) -> dict[str, str]:
    """The subject of a valid token; 401 for any other."""
    try:
        claims = jwt.decode(
            question.token, os.environ["JWT_SECRET"], ["HS256"], options={"require": ["exp", "sub"]}
        )
    except jwt.InvalidTokenError as fault:
        raise HTTPException(401, "The token is not valid.") from fault
    return {"subject": claims["sub"]}
