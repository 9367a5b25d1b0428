"""Published weights by their names on the Hugging Face hub: "hf:OWNER/NAME", or "hf:OWNER/NAME@REVISION".

The files come into the hub's own cache (HF_HOME), where they are found again without a network.
"""

import hashlib
import re
from pathlib import Path

import jax

from research.errors import UserError
from research.files import read_or_set_aside, write_json

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
BLOCK = 2**20


def fetched(name: str, folder: Path | None = None) -> Path:
    """The folder of a model's files, fetched where the cache lacks them; a path for what is no name of the hub.

    folder: of a run, which notes the commit that a name means, and means the same one later.

    Raises UserError where there is no such model, no network for one that is not in the cache, or where a file is not
    the one that the hub named.
    """
    if not name.startswith(PREFIX):
        return Path(name).expanduser()
    parts = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if parts is None:
        raise UserError(f"{name!r} is no name of the hub: write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    noted = read_or_set_aside(folder / NOTE, dict[str, str]) or {} if folder else {}
    path = _snapshot(name, parts[1], noted.get(name) or parts[2])
    _check(name, path)
    if folder and jax.process_index() == 0:
        write_json(folder / NOTE, {**noted, name: path.name})
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
    except (OSError, errors.LocalEntryNotFoundError) as error:
        cause = " ".join(str(error).split())[:160]
        raise UserError(
            f"{name} is not whole in the cache and cannot be fetched ({cause}): connect to the network, or give the "
            "folder of its files"
        ) from error


def _check(name: str, folder: Path) -> None:
    """Raises UserError where a file's content is not that of its name in the cache.

    Files are links to blobs that the hub names by their SHA-256, or small ones by Git's SHA-1; a cache that was laid
    out by hand may hold plain files, which nothing is known of.
    """
    for path in sorted(folder.rglob("*")):
        blob = path.resolve().name
        if not path.is_symlink() or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob):
            continue
        digest = hashlib.sha256()
        if len(blob) == 40:
            digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        if digest.hexdigest() != blob:
            raise UserError(
                f"{path.name} of {name} is not what the hub holds: remove {path.resolve()} to fetch it anew"
            )
