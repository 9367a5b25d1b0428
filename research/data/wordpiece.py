"""WordPiece vocabularies (Schuster & Nakajima 2012; Wu et al. 2016, section 4.1) in the form that BERT uses."""

import collections
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import models, trainers

from research.data.plain_text import lines_of
from research.data.tokenizer_rules import BERT_ROLES, BERT_TOKENS, pipeline, without_added_tokens
from research.errors import UserError
from research.files import read_json

LARGEST = 2**20
"""Tokens of a vocabulary that a file lists."""
DESCRIBED = "tokenizer_config.json"


def train_pieces(
    texts: Iterable[str], vocab_size: int, lowercase: bool, strip_accents: bool | None
) -> tokenizers.Tokenizer:
    """A vocabulary of at most `vocab_size` pieces: special tokens, letters, then the most frequent pairs, merged.

    Letters stand for themselves at the start of a word and with "##" within one. Rare ones are left out where there is
    no room for all. The same texts give the same ids.
    """
    tokenizer = pipeline("wordpiece", models.WordPiece(unk_token=BERT_ROLES["unk"]), lowercase, strip_accents)
    texts = list(texts)
    letters = _letters(_words(tokenizer, texts), vocab_size - len(BERT_TOKENS))
    characters = [letter for letter in letters if len(letter) == 1]
    # The trainer numbers letters in the order of a hash table with a random seed, unless they are special tokens.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*BERT_TOKENS, *letters],
        initial_alphabet=characters,
        limit_alphabet=len(characters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return without_added_tokens(tokenizer)


def pieces_of_lines(text: str, name: str, lowercase: bool, strip_accents: bool | None) -> tokenizers.Tokenizer:
    """The vocabulary of BERT's `vocab.txt`: line n, counted from 0, holds the token with id n.

    Raises a UserError that begins with `name` for an empty line, a token that is there twice, and too many of them.
    """
    tokens = lines_of(text)
    if len(tokens) > LARGEST:
        raise UserError(f"{name} has {len(tokens):,} lines: give a vocabulary of at most {LARGEST:,} tokens")
    ids: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if not token or token in ids:
            what = f"repeats line {ids[token] + 1}" if token else "is empty"
            raise UserError(f"{name} is not a vocabulary, as its line {number + 1} {what}: give one token a line")
        ids[token] = number
    return pipeline("wordpiece", models.WordPiece(ids, unk_token=BERT_ROLES["unk"]), lowercase, strip_accents)


def described_beside(path: Path) -> tuple[bool, bool | None]:
    """Whether a published BERT's texts become lower case, and whether they lose their accents (None: as the former), by
    the `tokenizer_config.json` beside its `vocab.txt`; True and None where there is none.

    Raises UserError for a file that says neither, and for one that leaves Chinese characters together.
    """
    described = path.with_name(DESCRIBED)
    if path.name != "vocab.txt" or not described.exists():
        return True, None
    stored = read_json(described)
    if stored.get("tokenize_chinese_chars", True) is not True:
        raise UserError(f"{described} does not part Chinese characters, which is not done here: give a tokenizer.json")
    lowercase, strip_accents = stored.get("do_lower_case", True), stored.get("strip_accents")
    if not isinstance(lowercase, bool) or not isinstance(strip_accents, bool | None):
        raise UserError(f"{described} has a do_lower_case or strip_accents that is neither true nor false: restore it")
    return lowercase, strip_accents


def _words(tokenizer: tokenizers.Tokenizer, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)):
            yield word


def _letters(words: Iterable[str], room: int) -> list[str]:
    """Letters that start words and, with "##", those within words; of those that find room, the most frequent."""
    starts, within = collections.Counter(), collections.Counter()
    for word, count in collections.Counter(words).items():
        starts[word[0]] += count
        for character in word[1:]:
            within[character] += count
    total = starts + within
    kept = []
    for character in sorted(total, key=lambda character: (-total[character], character)):
        forms = [character, f"##{character}"] if character in within else [character]
        if len(kept) + len(forms) <= room:
            kept += forms
    return sorted(kept, key=lambda letter: (len(letter) > 1, letter))
