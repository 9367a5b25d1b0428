"""A served run under load: `python -m benchmarks.serving URL RUN "12 hours and 3 feet" --seconds=20`.

Against a running `python -m experiments.api`: 1, 8 and 64 clients, each of which asks again as soon as it is answered,
over one connection. Prints answers a second and percentiles of the latency as JSON. The first second of each is not
counted: new shapes compile in it, and those of all batches are asked for before.
"""

import argparse
import asyncio
import json
import time
from urllib.parse import urlsplit

import numpy as np

CLIENTS = (1, 8, 64)


async def client(address: str, body: bytes, until: float, took: list[tuple[float, float]]) -> None:
    """Asks until the time is over; notes when each answer came and how long it took. Raises where one is none."""
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST /predict HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    message = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    try:
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(message)
            headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(headers.split("content-length:")[1].split("\r\n")[0])
            content = await reader.readexactly(size)
            if " 200 " not in headers.partition("\r\n")[0]:
                raise RuntimeError(content.decode())
            took.append((time.perf_counter(), time.perf_counter() - began))
    finally:
        writer.close()


async def measure(address: str, body: bytes, clients: int, seconds: float) -> dict[str, float]:
    """Answers a second and latencies in milliseconds of a number of clients at once."""
    took: list[tuple[float, float]] = []
    began = time.perf_counter()
    await asyncio.gather(*(client(address, body, began + 1 + seconds, took) for _ in range(clients)))
    counted = [latency for moment, latency in took if moment > began + 1]
    p50, p95, p99 = 1000 * np.percentile(counted, (50, 95, 99))
    rate = len(counted) / (time.perf_counter() - began - 1)
    return {"clients": clients, "answers_per_second": round(rate, 2), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


async def main(arguments: argparse.Namespace) -> None:
    """Warms up and measures."""
    for count in (1, 8, 16, 32, 64):
        body = json.dumps({"run": arguments.run, "inputs": [arguments.text] * count}).encode()
        await client(arguments.url, body, time.perf_counter() + 0.01, [])
    body = json.dumps({"run": arguments.run, "inputs": [arguments.text]}).encode()
    for clients in CLIENTS:
        print(json.dumps(await measure(arguments.url, body, clients, arguments.seconds)), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("url", help="such as http://127.0.0.1:8001")
    parser.add_argument("run", help="the name of a served run")
    parser.add_argument("text", help="the input of every request")
    parser.add_argument("--seconds", type=float, default=20)
    asyncio.run(main(parser.parse_args()))
