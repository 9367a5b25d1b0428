"""Serves trained runs over HTTP: `python -m experiments.api runs/demo`, then http://127.0.0.1:8001.

`POST /predict` takes JSON ({"run": ..., "inputs": [...], "options": {...}}) or an image; `/v1/completions` and
`/v1/embeddings` are OpenAI's; `/metrics` is for Prometheus; the page at / is to try the runs. A run's name is that of
its folder.
"""

import argparse
import os
import secrets
import socket
from pathlib import Path

import uvicorn

from research.errors import UserError
from research.runs.command import add_plugin, is_local, run_command
from research.serving.application import application
from research.serving.worker import opened


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    if not arguments.public and not is_local(arguments.host):
        raise UserError(f"--host {arguments.host} lets other machines ask the runs: add --public, or use 127.0.0.1")
    token = os.environ.get("HEED_TOKEN") or None
    if arguments.public and token is None:
        raise UserError(f"--public needs a token in the environment: set HEED_TOKEN, such as {secrets.token_urlsafe()}")
    folders: dict[str, str] = {}
    for run in arguments.runs:
        name = Path(run).resolve().name
        if name in folders:
            raise UserError(f"two runs are called {name} ({folders[name]} and {run}): rename one of the folders")
        folders[name] = run
    _check_free(arguments.host, arguments.port)
    workers = opened(folders)
    hosts = ["*"] if arguments.public else ["127.0.0.1", "localhost", "::1", "[::1]"]
    print(f"{', '.join(workers)}: http://{arguments.host}:{arguments.port}", flush=True)
    uvicorn.run(application(workers, hosts, token), host=arguments.host, port=arguments.port, log_level="error")


def _check_free(host: str, port: int) -> None:
    """Raises UserError where another program listens there, before the runs are opened."""
    try:
        with socket.create_server((host, port)):
            return
    except OSError as error:
        raise UserError(f"--port {port} of {host} cannot be used ({error.strerror}): use another") from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.api", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument(
        "--public",
        action="store_true",
        help="allow an address that other machines reach; needs the variable HEED_TOKEN",
    )
    add_plugin(parser)
    run_command(main, parser)
