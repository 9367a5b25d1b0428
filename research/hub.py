"""Published weights by their names on the Hugging Face hub: "hf:OWNER/NAME", or "hf:OWNER/NAME@REVISION".

The files come into the hub's own cache (HF_HOME), where they are found again without a network.
"""

import hashlib
import re
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from research.errors import UserError, one_line
from research.files import read_or_set_aside, set_aside, write_json

PREFIX = "hf:"
FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("model-*-of-*.safetensors", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "source.spm", "target.spm"),
    *("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"),
)
"""What of a repository is fetched: whatever an import may read, and no weights in other formats."""
NOTE = "hub.json"
"""{name: commit} in a run's folder: what the names meant when it began."""
COMMIT = r"[0-9a-f]{40}"
BLOCK = 2**20


def fetched(name: str, folder: Path | None = None) -> Path:
    """The folder of a model's files, fetched where the cache lacks them; a path for any other name.

    folder: of a run, which notes the commit that a name means, and means the same one later.

    Raises UserError where there is no such model, no network for one that is not in the cache, or where a file is not
    the one that the hub named.
    """
    if not name.startswith(PREFIX):
        return Path(name).expanduser()
    parts = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?", name)
    if parts is None or ".." in name:
        raise UserError(f"{name!r} is not a name on the hub: write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    if folder is None:
        return _whole(name, parts[1], parts[2])
    path = _whole(name, parts[1], _noted(name, folder) or parts[2])
    if jax.process_index() == 0:
        write_json(folder / NOTE, {**(read_or_set_aside(folder / NOTE, dict[str, str]) or {}), name: path.name})
    return path


def agreed(path: Path) -> Path:
    """The same path, once all processes are known to have one of that name. Raises UserError where they differ."""
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(path.name.encode())))
        if len(np.unique(sums)) > 1:
            raise UserError(f"the processes found different commits for {path.parents[1].name}: name one after an @")
    return path


def _noted(name: str, folder: Path) -> str | None:
    """The commit that a run noted for a name."""
    commit = (read_or_set_aside(folder / NOTE, dict[str, str]) or {}).get(name)
    if commit is not None and not re.fullmatch(COMMIT, commit):
        set_aside(folder / NOTE, f"{one_line(commit, 80)!r} of {folder / NOTE} is not a commit")
        return None
    return commit


def _whole(name: str, repository: str, revision: str | None) -> Path:
    path = _snapshot(name, repository, revision)
    found = sorted(file for pattern in FILES for file in path.glob(pattern))
    for file in found:
        _check(name, file)
    if not (path.parents[1] / "trees" / f"{path.name}.json").exists():
        names = ", ".join(file.relative_to(path).as_posix() for file in found)
        told = f"warning: {name} is taken as it lies in the cache, which may lack files that the hub has: {names}"
        print(told, file=sys.stderr, flush=True)
    return path


def _snapshot(name: str, repository: str, revision: str | None) -> Path:
    import huggingface_hub as hub  # half a second that only names of the hub need
    from huggingface_hub import errors

    try:
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=[*FILES]))
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} asks for your consent: give it on its page, then log in with `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(f"{name} is not on the hub, or not for you: check its name, or `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name} has no revision {revision}: leave it out, or name another after the @") from error
    except Exception as error:  # of many kinds: a network that ends in the middle, a page in place of an answer
        raise _not_whole(name, str(error)) from error


def _not_whole(name: str, cause: str) -> UserError:
    return UserError(
        f"{name} is not whole in the cache and cannot be fetched ({one_line(cause, 160)}): connect to the network, or "
        "give the folder of its files"
    )


def _check(name: str, path: Path) -> None:
    """Raises UserError where a file's content is not that of its name in the cache.

    Files are links to blobs that the hub names by their SHA-256, or small ones by Git's SHA-1; a cache that was laid
    out by hand may hold plain files, which nothing is known of.
    """
    if not path.is_file():
        raise _not_whole(name, f"{path.name} is a link that leads nowhere")
    blob = path.resolve().name
    if not path.is_symlink() or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob):
        return
    digest = hashlib.sha256()
    if len(blob) == 40:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != blob:
        raise UserError(f"{path.name} of {name} is not what the hub holds: remove {path.resolve()} to fetch it anew")
