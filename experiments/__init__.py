"""The commands: `python -m experiments.NAME --help` tells more of one."""

from research.memory import restart_with_large_pages

restart_with_large_pages()
