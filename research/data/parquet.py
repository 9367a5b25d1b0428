"""Parquet files, read as a stream and within limits: nothing that a file states of its size is believed."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

from research.data.image_files import short, shown
from research.data.plain_text import EXPANSION, SMALLEST_LIMIT, opened
from research.errors import UserError

BUFFER = 2**20
"""Bytes that are read of a column at once."""


def most_bytes(file: str) -> int:
    """What the values of a Parquet file may take once they are unpacked."""
    return max(SMALLEST_LIMIT, EXPANSION * os.path.getsize(os.path.expanduser(file)))


@contextlib.contextmanager
def opened_table(file: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`.

    Raises a UserError for one that is missing or damaged, also when that shows in reading, that is compressed as a
    whole, or that states more bytes than one of its size would hold.
    """
    import pyarrow  # here, because only this should cost its start-up time
    from pyarrow import parquet

    with opened(file) as stream:
        if not isinstance(stream, io.BufferedReader):
            raise UserError(f"{file} is a compressed Parquet file, which is read from its end: decompress it")
        try:
            table = parquet.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)
            unpacked = sum(table.metadata.row_group(number).total_byte_size for number in range(table.num_row_groups))
            if unpacked > most_bytes(file):
                raise UserError(f"{file} holds {unpacked:,} bytes, more than one of its size would: write it anew")
            yield table
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{shown(file)} cannot be read as Parquet ({short(error)[:100]}): restore it, or write it anew"
            ) from error
