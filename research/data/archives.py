"""The files of a folder or of a zip archive, which is read as it is: nothing is unpacked.

Names are relative, with "/" between their parts. Whatever the library makes of a damaged archive is one UserError.
"""

import heapq
import os
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from research.data.image_files import LARGEST, read_image_file, short, shown, too_large
from research.errors import UserError

SYSTEM_NAMES = frozenset(
    ("__macosx", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "@eadir", "@tmp", "#recycle",
     "@recycle", "#snapshot", "$recycle.bin", "recycler", "system volume information", "lost+found")
)  # fmt: skip
"""Of Windows, macOS and network drives, in lower case; names that begin with a point are not shown by any system."""

COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Those that `zipfile` unpacks up to a limit; by bzip2 and LZMA a kilobyte may become gigabytes before it is asked."""


@dataclass
class Tree:
    """What lies in a folder or archive and is not hidden."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)  # links to nothing, pipes and devices
    repeated: list[str] = field(default_factory=list)  # names of an archive that a later file has too
    again: list[str] = field(default_factory=list)  # links to folders that are here under another name


def hidden(name: str) -> bool:
    """Whether the last part of a name is one that a system hides or leaves behind."""
    last = name.rpartition("/")[2]
    return last.startswith(".") or last.lower() in SYSTEM_NAMES


def tree(path: str) -> Tree:
    """What lies within a path; links are followed, also out of it, but not to a folder that is read already."""
    found = _tree_of_folder(path) if os.path.isdir(path) else _tree_of_archive(path)
    for names in (found.files, found.folders, found.odd, found.repeated, found.again):
        names.sort()
    return found


def name_within(name: str, where: str) -> str:
    """A file's name in a folder as `tree` has it. Raises UserError for one that leads out, with `where` it stands."""
    parts = name.replace("\\", "/").split("/")
    if not name or not parts[0] or ".." in parts or ":" in name[:2]:
        raise UserError(f"{where} names the file {shown(name)!r}: use names below the folder of images")
    return "/".join(part for part in parts if part not in ("", "."))


def read(path: str, name: str) -> bytes:
    """What one file holds. Raises UserError for one that cannot be read or is too large."""
    if os.path.isdir(path):
        return read_image_file(os.path.join(path, name))
    return _read_member(path, name, LARGEST)


def read_start(path: str, name: str, count: int) -> bytes:
    """The first bytes of a file."""
    if not os.path.isdir(path):
        return _read_member(path, name, count)
    whole = os.path.join(path, name)
    try:
        with open(whole, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise UserError(f"{shown(whole)} cannot be read ({short(error)}): repair or remove it") from error


def sizes(path: str, names: list[str]) -> Iterator[tuple[int, int | None]]:
    """Bytes of each file, and its checksum where an archive says it; nothing is read for that."""
    if os.path.isdir(path):
        try:
            yield from ((os.stat(os.path.join(path, name)).st_size, None) for name in names)
        except OSError as error:
            raise UserError(f"{shown(path)} has changed ({short(error)}): restore it, or start again") from error
    else:
        members = _archive(path)[1]
        yield from ((members[name].file_size, members[name].CRC) for name in names)


def _tree_of_folder(path: str) -> Tree:
    found, entered, folders, links = Tree(), set(), [""], []
    while folders or links:
        # Links come last and sorted, so that a folder has its own name wherever it has one here.
        is_link = not folders
        within = heapq.heappop(links) if is_link else folders.pop()
        folder = os.path.join(path, within)
        try:
            status = os.stat(folder)
            if is_link and (status.st_dev, status.st_ino) in entered:  # a loop, or links from each folder to each
                found.again.append(within[:-1])
                continue
            entered.add((status.st_dev, status.st_ino))
            found.folders += [within[:-1]] if within else []
            for entry in os.scandir(folder):
                name = within + entry.name
                if hidden(name):
                    continue
                if _is(entry.is_file):
                    found.files.append(name)
                elif not _is(entry.is_dir):
                    found.odd.append(name)
                elif entry.is_symlink():
                    heapq.heappush(links, f"{name}/")
                else:
                    folders.append(f"{name}/")
        except OSError as error:
            raise UserError(f"{shown(folder)} cannot be read ({short(error)}): allow it, or remove it") from error
    return found


def _is(question: Callable[[], bool]) -> bool:
    """False also for a link that cannot be followed, such as one to itself."""
    try:
        return question()
    except OSError:
        return False


def _tree_of_archive(path: str) -> Tree:
    archive, members = _archive(path)
    found, folders, kinds = Tree(), set(), {}
    hides: dict[str, bool] = {"": False}  # whether a folder or one above it is hidden
    for name, member in members.items():
        folder = name.rpartition("/")[0]
        if folder not in hides:
            parts = folder.split("/")
            hides[folder] = any(map(hidden, parts))
            if not hides[folder]:
                folders.update("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        if hides[folder] or hidden(name):
            continue
        if member.is_dir() or member.filename.endswith("\\"):
            folders.add(name)
        elif stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG):
            found.files.append(name)
            kinds.setdefault((member.compress_type, member.flag_bits & 1), name)
        else:
            found.odd.append(name)  # a link, which is a text here
    for name in kinds.values():
        _read_member(path, name, 1)  # so that a password or an unknown compression is said at once
    found.folders = list(folders)
    files = set(found.files)
    found.repeated = [
        name
        for member in archive.infolist()
        if (name := _name(member.filename)) in files and members[name] is not member
    ]
    return found


_open_archives = threading.local()


def _archive(path: str) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """An archive and its members by name, opened once per thread and process: file positions are not shared."""
    if getattr(_open_archives, "process", None) != os.getpid():
        _open_archives.process, _open_archives.archives = os.getpid(), {}
    archives = _open_archives.archives
    if path not in archives:
        archives[path] = _open_archive(path)
    return archives[path]


def _open_archive(path: str) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{shown(path)} is neither a folder nor a file: give a folder or a zip archive of images")
        archive = zipfile.ZipFile(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{shown(path)} does not exist: give a folder or a zip archive of images") from error
    except UserError:
        raise
    except Exception as error:  # whatever the library makes of a damaged file
        raise UserError(
            f"{shown(path)} cannot be read as a zip archive ({short(error)}): give a folder or a zip archive"
        ) from error
    # Of several with one name the last counts, as when they are unpacked one after the other.
    return archive, {name: member for member in archive.infolist() if (name := _name(member.filename))}


def _name(name: str) -> str:
    """A member's name as unpacking makes it: below the folder, with "/" where Windows wrote a backslash."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _read_member(path: str, name: str, count: int) -> bytes:
    """Up to `count` bytes; an error where there are more than LARGEST."""
    archive, members = _archive(path)
    whole = os.path.join(path, name)
    member = members[name]
    if count == LARGEST and member.file_size > LARGEST:
        raise too_large(whole, member.file_size)
    try:
        if member.compress_type not in COMPRESSIONS:
            names = zipfile.compressor_names  # pyrefly: ignore[missing-attribute]
            kind = names.get(member.compress_type, member.compress_type)
            raise NotImplementedError(f"its compression is {kind} and not deflate")
        with archive.open(member) as file:
            # No more than it says it has, which is checked by its checksum: it may unpack to any number of bytes.
            return file.read(min(count, member.file_size))
    except Exception as error:  # whatever the library makes of a damaged or encrypted archive
        raise UserError(f"{shown(whole)} cannot be read ({short(error)}): pack it anew, without a password") from error
