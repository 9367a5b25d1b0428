"""The command `heed`, where the project is installed: `heed train ...` is `python -m experiments.train ...`."""

import pkgutil
import runpy
import sys
from pathlib import Path

from research.config import suggestion


def main() -> None:
    """Runs the command that the first argument names."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    names = sorted(module.name for module in modules if module.name != "heed")
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: heed COMMAND ...\n\ncommands: {', '.join(names)}\n\nheed COMMAND --help tells more of one.")
        return
    if name not in names:
        print(f"error: {name} is not a command: {suggestion(name, names, 'commands')}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"heed {name}", *arguments]
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
