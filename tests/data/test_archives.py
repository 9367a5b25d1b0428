"""Folders and zips of images as others leave them: odd names, links, pipes, damaged and hostile archives."""

import os
import random
import shutil
import socket
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from research.data import archives
from research.data.image_folder import ImageFolder
from research.errors import UserError
from tests.data.raw_images import png


def picture(value: int) -> bytes:
    return png(np.full((4, 6, 3), value, np.uint8))


def pack(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpack(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def contents(path: Path | str) -> list[tuple[str, int, int]]:
    """Name, value of the pixels and label of all examples."""
    examples = ImageFolder(str(path), validation_fraction=0).examples("train")
    return [
        (name, int(examples[index]["image"][0, 0, 0]), label) for index, (name, label) in enumerate(examples.entries)
    ]


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        contents(path)
    assert "\n" not in str(error.value)


def test_links_folders_and_what_is_no_file(tmp_path: Path):
    other = unpack(tmp_path / "other", {"1.png": picture(9)})
    root = unpack(tmp_path / "root", {"cat/1.png": picture(1), "cat/2.JPG": picture(2), "dog/1": picture(3)})
    (root / "owl").symlink_to(other)  # a class
    (root / "dog" / "link.png").symlink_to(other / "1.png")
    (root / "dog" / "round").symlink_to(root / "dog")  # loops
    (root / "dog" / "itself.png").symlink_to(root / "dog" / "itself.png")
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nothing")
    (root / "dog" / "folder.png").mkdir()
    os.mkfifo(root / "dog" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "dog" / "socket.png"))
        found = contents(root)
    assert found == [("cat/1.png", 1, 0), ("cat/2.JPG", 2, 0), ("dog/1", 3, 1), ("dog/link.png", 9, 1),
                     ("owl/1.png", 9, 2)]  # fmt: skip
    assert ImageFolder(str(root)).left_out("train") == (
        f"4 files of {root} are neither files nor folders and are left out: dog/gone.png, dog/itself.png, "
        "dog/pipe.png, dog/socket.png",
        f"1 file of {root} leads to a folder that is read under another name and is left out: dog/round",
    )
    refused(root / "dog" / "pipe.png", "is neither a folder nor a file: give a folder or a zip archive")


def test_links_from_each_folder_to_each(tmp_path: Path):
    """Followed one after the other they have some 20! ends."""
    root = unpack(tmp_path / "root", {f"c{index:02}/1.png": picture(index) for index in range(20)})
    for folder in root.iterdir():
        for other in range(20):
            (folder / f"link{other}").symlink_to(root / f"c{other:02}")
    (root / "again").symlink_to(root / "c03")
    assert contents(root) == [(f"c{index:02}/1.png", index, index) for index in range(20)]
    assert ImageFolder(str(root)).left_out("train") == (
        f"401 files of {root} lead to folders that are read under other names and are left out: again, c00/link0, "
        "c00/link1, c00/link10, c00/link11 and 396 more",
    )


def test_names_that_are_not_utf8(tmp_path: Path):
    root = unpack(tmp_path / "root", {"cat/1.png": picture(1)})
    bad = os.fsencode(root / "cat") + b"/caf\xe9.png"
    Path(os.fsdecode(bad)).write_bytes(picture(2))
    Path(os.fsdecode(bad + b".txt")).write_bytes(b"text")
    assert [value for _, value, _ in contents(root)] == [1, 2]
    source = ImageFolder(str(root), validation_fraction=0)
    assert len(source.fingerprint("train")) == 64
    (sentence,) = source.left_out("train")
    assert sentence.encode() and sentence.endswith(": cat/caf\ufffd.png.txt")
    other = unpack(tmp_path / "other", {"cat/1.png": picture(1)})
    shutil.copytree(other / "cat", Path(os.fsdecode(os.fsencode(other) + b"/caf\xe9")))
    refused(other, "class folder 'caf\ufffd' of .* has a name that is not UTF-8: rename it")


def test_an_accent_of_macos_is_the_same_class(tmp_path: Path):
    train = unpack(tmp_path / "train", {"caf\u00e9/1.png": picture(1)})
    test = pack(tmp_path / "test.zip", {"cafe\u0301/1.png": picture(2)})
    source = ImageFolder(str(train), test_path=str(test))
    assert source.class_names == ("caf\u00e9",) and source.examples("test")[0]["label"] == 0


def test_names_of_archives(tmp_path: Path):
    files = {"data\\cat\\1.png": picture(1), "/data/cat/2.png": picture(2), "../data/dog/3.png": picture(3),
             "./data/dog/4.png": picture(4), "data\\emu\\": b"", "data/emu/5.png": picture(5)}  # fmt: skip
    wanted = [("data/cat/1.png", 1, 0), ("data/cat/2.png", 2, 0), ("data/dog/3.png", 3, 1), ("data/dog/4.png", 4, 1),
              ("data/emu/5.png", 5, 2)]  # fmt: skip
    assert contents(pack(tmp_path / "a.zip", files)) == wanted
    with pytest.warns(UserWarning, match="Duplicate"):
        pack(tmp_path / "b.zip", {"cat/1.png": picture(1)})
        with zipfile.ZipFile(tmp_path / "b.zip", "a") as archive:
            archive.writestr("cat/1.png", picture(2))
    assert contents(tmp_path / "b.zip") == [("cat/1.png", 2, 0)]  # as when it is unpacked
    assert ImageFolder(str(tmp_path / "b.zip")).left_out("train") == (
        f"1 file of {tmp_path / 'b.zip'} is followed by another of its name, which is used: cat/1.png",
    )


def patched(path: Path, *changes: tuple[int, int, str, int]) -> Path:
    """A zip whose last file has other fields: (offset in its local header, in the directory's, format, value)."""
    data = bytearray(path.read_bytes())
    header, directory = data.rindex(b"PK\3\4"), data.rindex(b"PK\1\2")
    for local, central, kind, value in changes:
        for place in (header + local, directory + central):
            struct.pack_into(kind, data, place, value)
    path.write_bytes(data)
    return path


def test_members_that_cannot_be_read(tmp_path: Path):
    files = {"cat/1.png": picture(1)}
    deflate64 = patched(pack(tmp_path / "deflate64.zip", files), (8, 10, "<H", 9))
    refused(deflate64, r"cat/1\.png cannot be read \(.*compression.*\): pack it anew")
    refused(patched(pack(tmp_path / "unknown.zip", files), (8, 10, "<H", 77)), r"cat/1\.png cannot be read \(.*: pack")
    encrypted = patched(pack(tmp_path / "encrypted.zip", files), (6, 8, "<H", 1))
    refused(encrypted, r"cat/1\.png cannot be read \(.*encrypted.*\): pack it anew, without a password")
    refused(
        patched(pack(tmp_path / "crc.zip", files), (14, 16, "<I", 12345)), r"cat/1\.png cannot be read \(Bad CRC-32"
    )
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert contents(pack(tmp_path / f"{kind}.zip", files, kind)) == [("cat/1.png", 1, 0)]
    for kind, name in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "lzma")):
        refused(pack(tmp_path / name, files, kind), rf"1\.png .* \(its compression is {name} and not deflate")


def test_damaged_archives_end_in_one_sentence(tmp_path: Path):
    whole = pack(tmp_path / "whole.zip", {f"cat/{index}.png": picture(index) for index in range(3)}).read_bytes()
    draw = random.Random(0)
    for attempt in range(300):
        data = bytearray(whole if attempt % 3 else whole[: draw.randrange(len(whole))])
        for _ in range(draw.randrange(1, 4)):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        path = tmp_path / f"{attempt}.zip"  # a new name: archives are opened once
        path.write_bytes(data)
        try:
            contents(path)
        except UserError as error:
            assert "\n" not in str(error) and str(error).encode()


def test_bombs_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    zeros = {"cat/0.png": picture(0), "cat/1.png": picture(1) + bytes(50_000_000)}
    honest, lying, huge = (pack(tmp_path / f"{name}.zip", zeros) for name in ("honest", "lying", "huge"))
    assert honest.stat().st_size < 100_000
    patched(lying, (22, 24, "<I", 1000))
    patched(huge, (22, 24, "<I", 3_500_000_000))
    bzip2 = patched(pack(tmp_path / "bzip2.zip", zeros, zipfile.ZIP_BZIP2), (22, 24, "<I", 1000))
    monkeypatch.setattr(archives, "LARGEST", 10_000_000)
    tracemalloc.start()
    try:
        refused(honest, "has 50,000,072 bytes, and at most")
        refused(lying, r"cat/1\.png cannot be read \(Bad CRC-32")
        refused(bzip2, "its compression is bzip2")
        refused(huge, "has 3,500,000,000 bytes, and at most")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_fingerprints(tmp_path: Path):
    files = {f"{label}/{index}.png": picture(index) for label in ("cat", "dog") for index in range(40)}
    one, other = unpack(tmp_path / "one", files), unpack(tmp_path / "other" / "train" / "deep", files)
    zips = [pack(tmp_path / name, files) for name in ("a.zip", "b.zip")]

    def mark(path: Path, split: str = "train") -> str:
        return ImageFolder(str(path)).fingerprint(split)

    assert mark(one) == mark(other) != mark(one, "validation") and mark(zips[0]) == mark(zips[1])
    changed = {
        "renamed": {**files, "dog/x.png": picture(0)},
        "one less": dict(list(files.items())[:-1]),
        "other size": {**files, "cat/7.png": picture(7) + b"\0"},
        "other label": {name.replace("dog", "emu"): content for name, content in files.items()},
    }
    for name, those in changed.items():
        assert mark(unpack(tmp_path / name, those)) != mark(one)
        assert mark(pack(tmp_path / f"{name}.zip", those)) != mark(zips[0])
    # The content of each file of an archive, which says its checksum, and of the first of a folder.
    same_size = {name: png(np.full((4, 6, 3), 255 - int(name[4:-4]), np.uint8)) for name in files}
    assert mark(pack(tmp_path / "c.zip", {**files, "dog/9.png": same_size["dog/9.png"]})) != mark(zips[0])
    unpack(tmp_path / "one", same_size)
    assert mark(one) != mark(other)
    assert ImageFolder("a", test_path="c").paths() == ("a", "c")


def test_many_files_take_seconds(tmp_path: Path):
    content = picture(1)
    for index in range(20_000):
        if index % 1000 == 0:
            folder = tmp_path / "root" / f"class {index // 1000}"
            folder.mkdir(parents=True)
        (folder / f"{index}.png").write_bytes(content)
    started = time.perf_counter()
    assert len(ImageFolder(str(tmp_path / "root")).fingerprint("train")) == 64
    assert time.perf_counter() - started < 5


def test_a_folder_that_may_not_be_read(tmp_path: Path):
    root = unpack(tmp_path / "root", {"cat/1.png": picture(1), "dog/1.png": picture(1)})
    (root / "dog").chmod(0)
    try:
        if os.access(root / "dog", os.R_OK):
            pytest.skip("nothing is forbidden to this user")
        refused(root, "cannot be read")
    finally:
        (root / "dog").chmod(0o755)


def test_a_class_of_heic_files_says_so(tmp_path: Path):
    root = unpack(tmp_path / "root", {"cat/1.png": picture(1), "dog/1.HEIC": b"x", "dog/2.heif": b"x"})
    refused(root, r"class folder 'dog' of .* has no image \(2 files of .* are HEIC .* converted to JPEG or PNG: dog/1")
