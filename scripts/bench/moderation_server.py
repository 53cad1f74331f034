"""Latency and throughput of `cl-ac moderate serve` under load, with a client of its own.

python scripts/bench/moderation_server.py --moderator FILE --table test.csv --out moderation_server.json
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles

import httpx

from cl_ac.data.tables import read_table
from cl_ac.recording.provenance import provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moderator", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True, help="texts that are asked about, in the column text")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    given = parser.parse_args()
    texts = [str(row["text"]) for row in read_table(given.table, ("text",))][: given.requests]
    command = [sys.executable, "-m", "cl_ac", "moderate", "serve", str(given.moderator), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = server.stdout.readline() if server.stdout else ""
        address = re.search(r"http://\S+", said)
        if address is None:
            raise SystemExit(f"the server did not start: {said}")
        asyncio.run(under_load(address[0], texts[:64], 4))
        rows = {str(count): asyncio.run(under_load(address[0], texts, count)) for count in given.clients}
    finally:
        server.terminate()
        server.wait()
    given.out.write_text(json.dumps({"provenance": provenance(), "clients": rows}, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


async def under_load(address: str, texts: list[str], clients: int) -> dict[str, float]:
    """What so many clients see that each ask for one text after the other."""
    waited: list[float] = []
    left = iter(texts)

    async def ask(client: httpx.AsyncClient) -> None:
        for text in left:
            began = time.perf_counter()
            answer = await client.post(f"{address}/score", json={"texts": [text]}, timeout=60)
            answer.raise_for_status()
            waited.append(1000 * (time.perf_counter() - began))

    began = time.perf_counter()
    async with httpx.AsyncClient() as client:
        await asyncio.gather(*(ask(client) for _ in range(clients)))
    parts = quantiles(waited, n=100)
    return {
        "texts a second": len(waited) / (time.perf_counter() - began),
        "median ms": parts[49],
        "95th percentile ms": parts[94],
        "99th percentile ms": parts[98],
    }


if __name__ == "__main__":
    main()
