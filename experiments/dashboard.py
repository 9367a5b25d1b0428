"""Shows runs in a browser, live: `python -m experiments.dashboard runs`, then http://127.0.0.1:8000.

Read-only: it lists every run and sweep under the folder, and makes each one's page anew when its metrics have changed.
"""

import argparse
from pathlib import Path

import uvicorn

from research.errors import UserError
from research.reports.dashboard import application
from research.runs.command import is_local, run_command


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    root, host = Path(arguments.runs), arguments.host
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: give the folder that holds the runs")
    if not arguments.public and not is_local(host):
        raise UserError(f"--host {host} lets other machines read the runs: add --public, or use 127.0.0.1")
    hosts = ["*"] if arguments.public else ["127.0.0.1", "localhost", "::1", "[::1]"]
    print(f"the runs of {root} are at http://{host}:{arguments.port}", flush=True)
    uvicorn.run(application(root, hosts), host=host, port=arguments.port, log_level="error")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.dashboard", description=__doc__)
    parser.add_argument("runs", help="the folder that holds the runs")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument("--public", action="store_true", help="allow an address that other machines reach")
    run_command(main, parser)
