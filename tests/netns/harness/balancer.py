"""A program: a load balancer that looks at nothing. Each connection goes to the next of the backends that takes it.

python -m harness.balancer HOST:PORT BACKEND:PORT...
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys


async def _pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            to.write(data)
            await to.drain()
    # Whichever side ends first ends both: a balancer keeps no half of a connection.
    to.transport.abort()


async def main(listen: str, *backends: str) -> None:
    turns = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = next(turns)
        for n in range(len(backends)):
            host, _, port = backends[(turn + n) % len(backends)].rpartition(":")
            with contextlib.suppress(OSError):
                there, on = await asyncio.open_connection(host, int(port))
                await asyncio.gather(_pump(reader, on), _pump(there, writer))
                return
        writer.transport.abort()

    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(serve, host, int(port))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
