"""What we compare with: the API as FastAPI's and SQLModel's tutorials write it, a session for each request."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlmodel import Field, Session, SQLModel, create_engine, select

engine = create_engine(os.environ["DATABASE_URL"], connect_args={"check_same_thread": False})


class User(SQLModel, table=True):
    id: int = Field(primary_key=True)
    name: str


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    SQLModel.metadata.create_all(engine)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/users", status_code=201)
def add_user(user: User, session: SessionDep) -> User:
    session.add(user)
    session.commit()
    session.refresh(user)
    return user


@app.get("/users")
def list_users(session: SessionDep, limit: int = 100) -> list[User]:
    return list(session.exec(select(User).limit(limit)).all())


@app.get("/users/{user_id}")
def get_user(user_id: int, session: SessionDep) -> User:
    user = session.get(User, user_id)
    if not user:
        raise HTTPException(404, "User not found")
    return user
