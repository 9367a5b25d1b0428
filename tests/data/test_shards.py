"""Tar files of images and captions, packed here by the standard library: what is read, kept, left out and refused."""

import io
import json
import os
import tarfile
import tracemalloc
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from research.data import shards, token_store
from research.data.captioned_images import CaptionTexts
from research.data.captions import Captions
from research.data.shards import read_shards
from research.errors import UserError
from tests.data.raw_images import png


def picture(value: int) -> bytes:
    return png(np.full((4, 6, 3), value, np.uint8))


def record(**values: object) -> bytes:
    return json.dumps(values).encode()


def entry(name: str, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def pack(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo, kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in files.items():
            tar.addfile(entry(name, size=len(content)), io.BytesIO(content))
        for other in others:
            tar.addfile(other)
    return path


def pairs(first: int, last: int) -> dict[str, bytes]:
    """Images whose value is their number, each with its caption."""
    files = {}
    for number in range(first, last):
        files |= {f"{number:06}.png": picture(number), f"{number:06}.txt": f" picture {number}\n".encode()}
    return files


def contents(path: Path | str, **fields: object) -> list[tuple[str, int, str]]:
    """Name within the folder, value of the pixels and caption of all examples."""
    read_shards.cache_clear()
    found = Captions(str(path), **fields).examples("train")
    return [
        (os.path.basename(example["name"]), int(example["image"][0, 0, 0]), example["caption"]) for example in found
    ]


def refused(path: Path | str, message: str, **fields: object) -> None:
    with pytest.raises(UserError, match=message) as error:
        contents(path, **fields)
    assert "\n" not in str(error.value)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An index is kept of the least, and every shard that is read for one is listed."""
    monkeypatch.setattr(token_store, "SMALL", 0)
    read, members = [], shards._members

    def listed(file, texts):
        read.append(os.path.basename(file))
        return members(file, texts)

    monkeypatch.setattr(shards, "_members", listed)
    return read


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_of_a_folder_a_pattern_and_alone(tmp_path: Path, kind: int):
    deep = f"{'deep' * 20}/{'er' * 45}.png"  # longer than a header's field
    pack(tmp_path / "b.tar", pairs(3, 5), kind=kind)
    pack(tmp_path / "a.tar", {**pairs(0, 3), deep: picture(9), deep.replace("png", "txt"): b"deep"}, kind=kind)
    (tmp_path / "notes.txt").write_text("no shard")
    expected = [(f"{number:06}.png", number, f"picture {number}") for number in range(5)]
    expected.insert(3, (os.path.basename(deep), 9, "deep"))
    assert contents(tmp_path) == contents(tmp_path / "*.tar") == expected
    assert contents(tmp_path / "b.tar") == contents(tmp_path / "[b-z]*.tar") == expected[4:]
    first = Captions(str(tmp_path)).examples("train")[0]
    assert first["name"] == str(tmp_path / "a.tar" / "000000.png") and first["image"].shape == (4, 6, 3)
    assert Captions(str(tmp_path), size=2, channels=1).examples("train")[3]["image"].shape == (2, 2, 1)


def test_captions_of_json_and_the_same_name_in_two_folders(tmp_path: Path):
    files = {
        "./x/1.PNG": picture(1), "./x/1.json": record(caption="one ", other="uno", width=6),
        "y/1.png": picture(2), "y/1.json": record(caption="unused", other="dos"), "y/1.txt": b"two",
        "y/2.png": picture(7), "y/2.txt": "drei, schön".encode(), "y/2.png.": b"",
    }  # fmt: skip
    path = pack(tmp_path / "a.tar", files)
    assert contents(path) == [("1.PNG", 1, "one"), ("1.png", 2, "two"), ("2.png", 7, "drei, schön")]
    keys = {"image": "image", "caption": "other"}
    assert contents(path, keys=keys) == [("1.PNG", 1, "uno"), ("1.png", 2, "dos")]


def test_folds_and_captions_without_images(tmp_path: Path):
    source = Captions(str(pack(tmp_path / "a.tar", pairs(0, 12))), folds=4)
    numbers = {split: [int(c.split()[1]) for c in source.examples(split).captions] for split in source.splits}
    assert numbers == {"train": [2, 3, 6, 7, 10, 11], "validation": [1, 5, 9], "test": [0, 4, 8]}
    examples = source.examples("train")
    assert [each["caption"] for each in CaptionTexts(examples, lambda _: "")] == list(examples.captions)
    validated = Captions(str(tmp_path / "a.tar"), str(pack(tmp_path / "b.tar", pairs(50, 51))))
    assert validated.examples("validation")[0]["caption"] == "picture 50" and len(validated.examples("train")) == 12


def test_what_is_left_out_is_counted(tmp_path: Path):
    path = pack(
        tmp_path / "a.tar",
        {
            **pairs(0, 2), "2.png": picture(2), "3.png": picture(3), "3.txt": b" \n", "4.png": picture(4),
            "4.json": record(caption=None), "README.txt": b"about", "._1.png": b"mac", "inner.tar": b"nested",
            "inner.zip": b"nested", ".hidden/9.png": picture(9),
        },
        entry("5.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("6.png", type=tarfile.LNKTYPE, linkname="0"),
        entry("pipe", type=tarfile.FIFOTYPE), entry("folder", type=tarfile.DIRTYPE),
    )  # fmt: skip
    pack(tmp_path / "b.tar", pairs(7, 8))
    assert [value for _, value, _ in contents(tmp_path)] == [0, 1, 7]
    assert Captions(str(tmp_path)).left_out("train") == [
        f"3 images without a caption are left out, such as in {path}",
        f"1 captions without an image are left out, such as in {path}",
        f"3 links and other things that are not files are left out, such as in {path}",
    ]
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "b.tar"]  # nothing is unpacked, and so little is not kept


def test_of_two_files_with_one_name_the_last_counts(tmp_path: Path):
    path = pack(tmp_path / "a.tar", pairs(0, 1))
    with tarfile.open(path, "a") as tar:
        tar.addfile(entry("000000.png", size=len(picture(8))), io.BytesIO(picture(8)))
    assert contents(path) == [("000000.png", 8, "picture 0")]


def test_an_index_is_made_once_and_again_for_other_files(tmp_path: Path, kept: list[str], capsys):
    pack(tmp_path / "a.tar", pairs(0, 3))
    pack(tmp_path / "b.tar", pairs(3, 5))
    first = contents(tmp_path)
    assert sorted(kept) == ["a.tar", "b.tar"] and "index of " in capsys.readouterr().out
    assert contents(tmp_path) == first and len(kept) == 2
    (folder,) = tmp_path.glob("a.tar-*.index")
    examples = Captions(str(tmp_path)).examples("train")
    assert len(ForkingPickler.dumps(examples)) < 5000  # a worker process maps the same files
    pack(tmp_path / "b.tar", pairs(5, 7))
    assert [value for _, value, _ in contents(tmp_path)] == [0, 1, 2, 5, 6] and len(kept) == 4
    (start,) = folder.glob("*/start")
    start.write_bytes(np.full(5, 10**9, np.int64).tobytes())  # spoiled: made anew, and not believed
    assert [value for _, value, _ in contents(tmp_path)] == [0, 1, 2, 5, 6] and len(kept) == 6


def test_an_index_in_another_folder(tmp_path: Path, kept: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(token_store.CACHE_VARIABLE, str(tmp_path / "cache"))
    path = pack(tmp_path / "a.tar", pairs(0, 3))
    assert len(contents(path)) == 3 and kept
    assert [name.suffix for name in (tmp_path / "cache").iterdir()] == [".index"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.tar", "cache"]


def test_any_damage_is_one_sentence(tmp_path: Path):
    """Each header spoiled, the end cut off anywhere, and two shards in one file."""
    whole = pack(tmp_path / "whole.tar", pairs(0, 2)).read_bytes()
    path = tmp_path / "a.tar"
    with tarfile.open(tmp_path / "whole.tar") as tar:
        starts = [member.offset for member in tar] + [tar.offset]
    assert len(starts) == 5
    for length in {*range(0, starts[-1], 256), *starts}:
        path.write_bytes(whole[:length])
        refused(path, r"a.tar cannot be read as a tar file \(.*\): restore it, or pack it anew")
    for start in starts[:-1]:
        path.write_bytes(whole[: start + 100] + b"!" + whole[start + 101 :])
        refused(path, "a.tar cannot be read as a tar file")
    path.write_bytes(whole[: starts[-1] + 1024] + whole)
    refused(path, r"byte [\d,]+ begins neither a file nor the end")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../1.png": b"", "../1.txt": b"a"}, r"a.tar names the file '../1.png': use names below"),
        ({"/etc/1.png": b"", "/etc/1.txt": b"a"}, r"a.tar names the file '/etc/1.png': use names below"),
        ({"1.png": b"", "1.jpg": b"", "1.txt": b"a"}, r"two images for one caption, 1.png and 1.jpg"),
        ({"1.png": b"", "1.txt": b"\xff"}, r"a.tar/1.txt .*UTF-8"),
        ({"1.png": b"", "1.json": b"{"}, r"a.tar/1.json is not JSON"),
        ({"1.png": b"", "1.json": b"[" * 100_000}, r"a.tar/1.json is not JSON"),
        ({"1.png": b"", "1.json": record(text="a")}, r"a.tar/1.json has no text 'caption': set data.keys.caption"),
        ({"1.png": b"", "1.json": record(caption=["a"])}, r"a.tar/1.json has no text 'caption'"),
        ({"1.png": b"", "1.txt": b"a" * (2**20 + 1)}, r"a.tar/1.txt has 1,048,577 bytes: shorten it"),
        ({"1.png": b"no image", "1.txt": b"a"}, r"a.tar/1.png cannot be read as an image"),
        ({"1.png": b""}, r"a.tar has no images with captions: put N.txt or N.json beside N.jpg"),
    ],
)
def test_shards_that_do_not_fit(files: dict[str, bytes], message: str, tmp_path: Path):
    refused(pack(tmp_path / "a.tar", files), message)


def test_paths_that_are_no_shards(tmp_path: Path):
    refused(tmp_path, "has no .tar files: give a folder of them, one, or a pattern with")
    refused(tmp_path / "x-*.tar", "has no .tar files")
    refused(tmp_path / "a.tar.gz", "is compressed, so that no image in it can be read by itself: make it a .tar")
    (tmp_path / "folder.tar").mkdir()
    refused(tmp_path / "*.tar", "folder.tar is not a file: remove it")
    (tmp_path / "b.tar").write_bytes(b"")
    refused(tmp_path / "b.tar", "b.tar cannot be read as a tar file")
    pack(tmp_path / "c.tar", pairs(0, 1))
    refused(tmp_path / "c.tar", "are tar files of images and captions: leave data.images and columns out", images="x")


def test_sizes_are_limited_before_anything_is_read(tmp_path: Path):
    """An image that claims gigabytes, in a file that has them, and a header that does."""
    path = tmp_path / "a.tar"
    for kind, message in ((tarfile.REGTYPE, "1.png has 2,147,483,648 bytes"), (tarfile.XHDTYPE, "a header has")):
        member = entry("1.png", size=2**31, type=kind)
        with path.open("wb") as file:
            file.write(member.tobuf(tarfile.GNU_FORMAT))
            file.truncate(2**31 + 4096)  # nothing but holes
        tracemalloc.start()
        refused(path, message)
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


def test_a_shard_that_changes_while_it_is_used(tmp_path: Path):
    path = pack(tmp_path / "a.tar", pairs(0, 2))
    contents(path)
    examples = Captions(str(path)).examples("train")
    os.truncate(path, 600)
    with pytest.raises(UserError, match=r"a.tar has changed while it was in use: restore it, or start again"):
        examples[1]
    path.unlink()
    with pytest.raises(UserError, match=r"a.tar cannot be read \(No such file or directory\): restore it"):
        examples[1]
