"""Folders that libraries misread, that are gone, or that hold something else than files."""

import errno
import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

import tensorstore as ts

from research.errors import UserError
from research.locks import check_held

_MISREAD = re.compile(r"[][*?\\:\ud800-\udfff]|^/(gs|gcs|s3|az|hf)(/|$)")
"""What Orbax, its paths and TensorStore take for a pattern, another folder or a URL, or cannot encode."""


def plain(folder: Path) -> Path:
    """An absolute folder by a path that Orbax and TensorStore read as it is.

    Where its own path is not, that is a link in the system's folder for temporary files, with the same name in every
    process and at every start. Raises UserError where that cannot be made.
    """
    if not _MISREAD.search(str(folder)):
        return folder
    folder = folder.resolve()
    if not _MISREAD.search(str(folder)):
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]
    link = Path(tempfile.gettempdir()) / f"heed-{os.getuid()}-{name}"
    try:
        if not link.is_symlink():
            link.symlink_to(folder)
    except FileExistsError:  # another process was faster
        pass
    except OSError as error:
        raise UserError(
            f"{folder} has a character in its path that needs a link in {link.parent}, which cannot be written "
            f"({error.strerror}): set TMPDIR to another folder, or rename it without any of [ ] * ? \\ :"
        ) from error
    ours = link.is_symlink() and link.lstat().st_uid == os.getuid() and link.readlink() == folder
    if not ours or _MISREAD.search(str(link)):
        raise UserError(f"{link} cannot stand for {folder}: set TMPDIR to another folder, or rename the run's folder")
    return link


def check_files(folder: Path) -> None:
    """Raises ValueError where there is something else than folders and files in it: links may lead out of it, and
    reading a pipe never ends. Raises PermissionError for one that may not be read, which Orbax takes for an empty one.
    """
    for path in (folder, *_below(folder)):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ValueError(f"{path.name} is {'a link' if stat.S_ISLNK(mode) else 'neither a file nor a folder'}")
        if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def merge_parts(checkpoint: Path) -> None:
    """Completes a checkpoint whose parts, one of each process, were never merged: Orbax finds none of them in a path
    with brackets, and older versions of this project gave it such paths."""
    whole = checkpoint / "state"
    parts = sorted(whole.glob("ocdbt.process_*"))
    if not parts or (whole / "manifest.ocdbt").exists():
        return
    context, merged = ts.Context(), ts.Transaction(atomic=True)
    stores = [
        ts.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}, context=context).result()
        for path in (whole, *parts)
    ]
    for store in stores[1:]:
        store.experimental_copy_range_to(stores[0].with_transaction(merged)).result()
    merged.commit_async().result()


def _below(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        if not isinstance(error, NotADirectoryError):
            raise error

    return [Path(parent) / name for parent, folders, files in os.walk(folder, onerror=fail) for name in folders + files]


class Held:
    """Folders that are held open, to notice when their paths no longer lead to them."""

    def __init__(self, *folders: Path):
        # The inode of a deleted folder may be given to its successor, though not while it is open.
        self._handles = {folder: os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in folders}

    def check(self) -> None:
        """Raises UserError where a folder was deleted, moved or replaced, or where its lock was lost."""
        for folder, handle in self._handles.items():
            check_held(folder)
            try:
                if os.path.samestat(os.stat(folder), os.fstat(handle)):
                    continue
            except (FileNotFoundError, NotADirectoryError):
                pass
            raise UserError(
                f"{folder} was deleted, moved or replaced since this command started, so that nothing more is saved: "
                "move it back, or give --workdir the place where it is now, and run the command again"
            )

    def close(self) -> None:
        """Lets go of the folders; `check` then finds nothing."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles = {}
