"""Two MCP servers in one program, at /mcp and /admin/mcp, that check no token.

It says where it listens once it does: `{"address": …}`. Its argument is the host that clients name.
"""

import asyncio
import contextlib
import json
import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette

tools = MCPServer("tools")
admin = MCPServer("admin")


@tools.tool()
def headers(ctx: Context) -> dict[str, str]:
    """What the server sees of a request."""
    return dict(ctx.headers)


@admin.tool()
def restart(name: str, ctx: Context) -> str:
    """Does something that not everybody may do."""
    return f"{name} restarted by {ctx.headers['x-auth-subject']}"


def main():
    security = TransportSecuritySettings(allowed_hosts=[sys.argv[1]])
    apps = [
        server.streamable_http_app(streamable_http_path=path, transport_security=security)
        for server, path in [(tools, "/mcp"), (admin, "/admin/mcp")]
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_):
        async with contextlib.AsyncExitStack() as stack:
            for app in apps:
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    both = Starlette(routes=[route for app in apps for route in app.routes], lifespan=lifespan)
    listener = socket.create_server(("127.0.0.1", 0))
    host, port = listener.getsockname()
    print(json.dumps({"address": f"{host}:{port}"}), flush=True)
    config = uvicorn.Config(both, log_level="warning")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


main()
