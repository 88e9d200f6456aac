"""A stand-in node: says where it listens, serves its entity table, ends at end of input.

Behaviours by `--behave`: `well`, `mute` (never listens), `exit` (ends at once with code 3),
`nonsense` (says something else), `deaf` (ignores SIGTERM and end of input).
"""

import argparse
import asyncio
import json
import os
import signal
import sys

from aiohttp import web


async def serve(args: argparse.Namespace) -> None:
    async def entities(_: web.Request) -> web.Response:
        ids = range(int(args.cluster_id), int(args.cluster_id) + args.ranks)
        return web.json_response({"entities": {str(cluster_id): [] for cluster_id in ids}})

    app = web.Application()
    app.router.add_get("/sim/entities", entities)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    urls = {"agent_urls": [url], "engine_url": url, "metrics_url": f"{url}/metrics"}
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    if args.behave != "deaf":
        loop.add_signal_handler(signal.SIGTERM, ended.set)

        def read() -> None:
            if not os.read(0, 1):
                ended.set()

        loop.add_reader(0, read)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Last: whoever reads this may send a signal at once.
    said = {"node_id": args.node_id, "role": args.role, "pid": os.getpid(), **urls}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    await ended.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--node-id", "--role", "--cluster-id"):
        parser.add_argument(name, required=True)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--behave", default="well")
    args = parser.parse_args()
    if args.behave == "exit":
        sys.exit("no accelerator here\nexiting")
    if args.behave == "nonsense":
        sys.stdout.write("ready!\n")
        sys.stdout.flush()
    if args.behave in {"mute", "nonsense"}:
        sys.stdin.read()
        return
    asyncio.run(serve(args))


if __name__ == "__main__":
    main()
