"""Shows runs in a browser, live: `python -m experiments.serve runs`, then http://127.0.0.1:8000.

Read-only: it lists every run and sweep under the folder, and makes each one's page anew when its metrics have changed.
"""

import argparse
import functools
import ipaddress
import math
import os
import time
from html import escape
from pathlib import Path
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from experiments.command import run_command
from experiments.pages.page import page, progress, run_page, sweep_page
from experiments.pages.records import FILES, Record, State, read_run, state_of
from research.errors import UserError

LIST_SECONDS = 5


def runs_of(root: Path) -> dict[str, Path]:
    """Every folder of a run or a sweep under `root`, by its path from there ("" for itself); those whose files lie
    elsewhere are left out, and links are not followed."""
    found = {}
    for place, _, names in os.walk(root.resolve()):
        folder = Path(place)
        files = [folder / name for name in names if name in (*FILES, ".lock", "sweep.csv", "importance.png")]
        holds_one = not {"config.json", "metrics.jsonl", "sweep.csv"}.isdisjoint(names)
        if holds_one and not any(file.is_symlink() for file in files):
            name = folder.relative_to(root.resolve()).as_posix()
            found["" if name == "." else name] = folder
    return found


class _Anything(PathConvertor):
    regex = "(?s:.*)"  # names of folders may hold line breaks


register_url_convertor("anything", _Anything())


def application(root: Path, hosts: list[str]) -> Starlette:
    """The pages of the runs under `root`, for requests that name one of `hosts` ("*": any)."""

    def index(request: Request) -> Response:
        return HTMLResponse(_index(root))

    def run(request: Request) -> Response:
        # What is asked for is looked up among the runs, never joined to a path.
        folder = runs_of(root).get(request.path_params["name"])
        if folder is None:
            return PlainTextResponse("there is no such run: see the list at /", 404)
        try:
            return HTMLResponse(_page(folder, _changed(folder), _state(folder)))
        except UserError as error:
            return PlainTextResponse(str(error), 500)

    routes = [Route("/", index), Route("/runs/{name:anything}", run)]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


@functools.lru_cache(maxsize=8)
def _page(folder: Path, changed: float, state: State) -> str:
    """A page of about 5 MB; `changed` and `state` make it anew."""
    return sweep_page(folder) if (folder / "sweep.csv").exists() else run_page([read_run(folder, state)])


@functools.lru_cache(maxsize=1000)
def _row(name: str, folder: Path, changed: float, state: State) -> str:
    """A row of the list, without the time."""
    link = f'<a href="/runs/{quote(name)}">{escape(name or folder.name)}</a>'
    if (folder / "sweep.csv").exists():
        return f"<th scope=row dir=auto>{link}</th><td>sweep</td><td></td><td></td>"
    try:
        record = read_run(folder, state)
        cells = [escape(progress(record)), escape(_best(record))]
    except UserError as error:
        cells = [escape(str(error)), ""]
    return (
        f'<th scope=row dir=auto>{link}</th><td><span class="state {state}">{state}</span></td>'
        f"<td>{cells[0]}</td><td>{cells[1]}</td>"
    )


def _best(record: Record) -> str:
    """The best of what the run is judged by: the checkpoints' metric, else the validation loss."""
    policy = record.config.get("checkpoint", {})
    name = policy.get("best") or "validation/loss"
    values = [value for value in record.curve(name)[1].tolist() if math.isfinite(value)]
    best = max if policy.get("mode") == "max" else min
    return f"{name} {best(values):.4g}" if values else ""


def _index(root: Path) -> str:
    runs = [(_changed(folder), name, folder) for name, folder in runs_of(root).items()]
    rows = []
    for changed, name, folder in sorted(runs, key=lambda run: (-run[0], run[1])):
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(changed))
        rows.append(f"<tr>{_row(name, folder, changed, _state(folder))}<td>{moment}</td></tr>")
    head = "".join(f"<th scope=col>{name}</th>" for name in ("run", "state", "progress", "best", "last update"))
    table = f'<div class="scroll runs"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    lead = f"<p class=lead>{len(runs)} runs in {escape(str(root))}, refreshed every {LIST_SECONDS} seconds.</p>"
    return page("Runs", lead, {"": table} if runs else {}, LIST_SECONDS)


def _state(folder: Path) -> State:
    return "finished" if (folder / "sweep.csv").exists() else state_of(folder)


def _changed(folder: Path) -> float:
    """When a file that the page is made of was last written, in seconds since 1970."""
    files = [folder / name for name in (*FILES, "sweep.csv", "importance.png")]
    files += folder.glob("trials/*/metrics.jsonl")
    return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)


def main(arguments: argparse.Namespace) -> None:
    """The command."""
    root, host = Path(arguments.runs), arguments.host
    if not root.is_dir():
        raise UserError(f"there is no folder {root}: give the folder that holds the runs")
    if not arguments.public and not _is_local(host):
        raise UserError(f"--host {host} lets other machines read the runs: add --public, or use 127.0.0.1")
    hosts = ["*"] if arguments.public else ["127.0.0.1", "localhost", "::1", "[::1]"]
    print(f"the runs of {root} are at http://{host}:{arguments.port}", flush=True)
    uvicorn.run(application(root, hosts), host=host, port=arguments.port, log_level="error")


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m experiments.serve", description=__doc__)
    parser.add_argument("runs", help="the folder that holds the runs")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    parser.add_argument("--public", action="store_true", help="allow an address that other machines reach")
    run_command(main, parser)
