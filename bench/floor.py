"""What no Starlette application can beat: bare routes for the same JSON that store nothing."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

ROWS = [{"id": number, "name": f"Ana Maria {number}"} for number in range(1, 101)]


async def add_user(request: Request) -> JSONResponse:
    user = await request.json()
    return JSONResponse({"id": user["id"], "name": user["name"]}, 201)


async def list_users(request: Request) -> JSONResponse:
    return JSONResponse(ROWS)


async def get_user(request: Request) -> JSONResponse:
    user_id = int(request.path_params["id"])
    return JSONResponse({"id": user_id, "name": f"Ana Maria {user_id}"})


app = Starlette(
    routes=[Route("/users", add_user, methods=["POST"]), Route("/users", list_users), Route("/users/{id}", get_user)]
)
