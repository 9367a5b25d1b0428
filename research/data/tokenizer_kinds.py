"""How the vocabulary of each kind of tokenizer is made of texts; "wordpiece" has a file of its own."""

import json
import re
from collections.abc import Iterable

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from research.data.tokenizer_rules import BYTES, SPECIAL_TOKENS, UNK, pipeline, without_added_tokens
from research.errors import UserError

SPECIAL_WORDS = re.compile(rf"(?<!\S)({'|'.join(SPECIAL_TOKENS)})(?!\S)")


def train_characters(texts: Iterable[str], special_tokens: list[str]) -> tokenizers.Tokenizer:
    """All characters, in sorted order."""
    characters = special_tokens + sorted(set().union(*texts))
    vocabulary = {character: index for index, character in enumerate(characters)}
    return pipeline("character", models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS[UNK]))


def train_words(
    kind: str, texts: Iterable[str], vocab_size: int | None, special_tokens: list[str]
) -> tokenizers.Tokenizer:
    """The most frequent words, as the kind "word" or "whitespace" cuts them; all of them without a size.

    Raises a UserError for a word between spaces that reads like a special token where there are none.
    """
    if kind == "whitespace":
        texts = (_without_specials(text, special_tokens) for text in texts)
    tokenizer = pipeline(kind, models.WordLevel(unk_token=SPECIAL_TOKENS[UNK]))
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size or 2**31, special_tokens=special_tokens, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return without_added_tokens(tokenizer)


def _without_specials(text: str, special_tokens: list[str]) -> str:
    """Without words that read like special tokens: their ids are taken, so that they are unknown."""
    left = SPECIAL_WORDS.sub("", text)
    if left != text and not special_tokens and (word := SPECIAL_WORDS.search(text)):
        raise UserError(f"the text has the word {word[0]!r}: set tokenizer.specials to True")
    return left


def train_bpe(texts: Iterable[str], vocab_size: int, special_tokens: list[str]) -> tokenizers.Tokenizer:
    """All bytes, then the most frequent pairs of tokens, merged."""
    tokenizer = pipeline("bpe", models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return without_added_tokens(tokenizer)


def train_unigram(texts: Iterable[str], vocab_size: int, special_tokens: list[str]) -> tokenizers.Tokenizer:
    """All bytes, then the most probable pieces; raises a UserError for a size that does not fit the texts."""
    # Words keep their space, as in the other kinds, instead of SentencePiece's "\u2581", which a text may hold too.
    tokenizer = pipeline("unigram", models.Unigram())
    trainer = trainers.UnigramTrainer(vocab_size=vocab_size - len(BYTES) - len(special_tokens), show_progress=False)
    try:
        tokenizer.train_from_iterator(texts, trainer)
    except Exception as error:  # the library raises nothing more specific
        if "vocabulary" not in str(error):
            raise
        raise UserError(
            f"vocab_size {vocab_size} does not fit the training text ({error}): use a larger one, such as 8000"
        ) from error
    pieces = _settled(json.loads(tokenizer.to_str())["model"]["vocab"])
    # A text never matches these, as WORDS parts brackets from letters.
    reserved = [(token, 0.0) for token in special_tokens + BYTES]
    # The model asks for an unknown id, but bytes always take its place.
    tokenizer.model = models.Unigram(reserved + pieces, UNK if special_tokens else 0, byte_fallback=True)
    return tokenizer


def _settled(pieces: list[list]) -> list[tuple[str, float]]:
    """Pieces and log-probabilities in one order, free of what the library leaves to chance.

    It adds the characters that its model had pruned with the lowest score, each 0.0001 above the one before in random
    order: here all get the lowest. Sums over threads leave noise in the last digits.
    """
    lowest = min((score for _, score in pieces), default=0.0)

    def settled(piece: str, score: float) -> float:
        steps = (score - lowest) * 1e4
        return lowest if len(piece) == 1 and abs(steps - round(steps)) < 1e-6 else score

    scores = {piece: round(settled(piece, score), 6) for piece, score in pieces}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
