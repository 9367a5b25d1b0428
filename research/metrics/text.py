"""Scores of whole corpora of translations, computed on raw text by the field's own tools.

Each score is a function `score(hypotheses, references, target_language)` that returns its values by name and, where
sacreBLEU computes them, the signature that a published number needs beside it. BLEU and chrF run from 0 to 100.
"""

import functools
import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from research.config import suggestion
from research.errors import UserError

Result = tuple[dict[str, float], str | None]
"""Values by name, and the signature."""


def bleu(hypotheses: list[str], references: list[str], target_language: str | None) -> Result:
    """sacreBLEU (Post 2018) with its own tokenisation: 13a, that for Chinese, or characters for Japanese."""
    tokenize = {"zh": "zh", "ja": "char"}.get(_code(target_language), "13a")
    return _bleu("bleu", BLEU(tokenize=tokenize), hypotheses, references)


def chrf(hypotheses: list[str], references: list[str], target_language: str | None) -> Result:
    """The F2 score of character n-grams up to 6 (Popović 2015), as sacreBLEU computes it."""
    metric = CHRF()
    value = metric.corpus_score(hypotheses, [references]).score
    return {"chrf": value}, str(metric.get_signature())


def exact_match(hypotheses: list[str], references: list[str], target_language: str | None) -> Result:
    """The fraction, 0 to 1, of hypotheses that equal their reference."""
    equal = sum(hypothesis == reference for hypothesis, reference in zip(hypotheses, references, strict=True))
    return {"exact_match": equal / len(references)}, None


def multi_bleu(hypotheses: list[str], references: list[str], target_language: str | None) -> Result:
    """Moses' multi-bleu.perl: BLEU4 without smoothing of what stands between spaces, as the text is given.

    On tokenised, lower-cased text whose BPE is joined (`remove_bpe`) this is the published metric of Multi30k.
    """
    return _bleu("multi_bleu", _tokenised_bleu(), hypotheses, references)


def compound_split_bleu(hypotheses: list[str], references: list[str], target_language: str | None) -> Result:
    """The metric of "Attention Is All You Need" on WMT14: `multi_bleu` of raw text after `compound_split`.

    Raises UserError if there is no target language.
    """
    if target_language is None:
        raise UserError("compound_split_bleu tokenises by language: give the target language, such as de")
    split = functools.partial(compound_split, language=_code(target_language))
    hypotheses, references = list(map(split, hypotheses)), list(map(split, references))
    values, signature = _bleu("compound_split_bleu", _tokenised_bleu(), hypotheses, references)
    version = importlib.metadata.version("sacremoses")
    return values, signature.replace("tok:none", f"tok:sacremoses-{version}-{_code(target_language)}-compound-split")


def mecab_bleu(hypotheses: list[str], references: list[str], target_language: str | None) -> Result:
    """sacreBLEU of Japanese words, its `ja-mecab`. Raises UserError where MeCab is not installed."""
    try:
        metric = BLEU(tokenize="ja-mecab")
    except RuntimeError as error:
        raise UserError("the score mecab_bleu needs MeCab: install it with pip install 'sacrebleu[ja]'") from error
    return _bleu("mecab_bleu", metric, hypotheses, references)


SCORES: dict[str, Callable[[list[str], list[str], str | None], Result]] = {
    "bleu": bleu,
    "chrf": chrf,
    "exact_match": exact_match,
    "multi_bleu": multi_bleu,
    "compound_split_bleu": compound_split_bleu,
    "mecab_bleu": mecab_bleu,
}


class TextScorer:
    """Scores of a corpus of answers with one reference for each; of an example it keeps these two texts alone.

    names: those of SCORES. A BLEU `b` comes with its precisions b_p1 to b_p4 (0 to 100), b_brevity_penalty,
    b_hypothesis_length and b_reference_length (tokens). target_language: a code such as "de" or "pt_BR". join_bpe:
    joins "ka@@ ra@@ te" in both. Raises UserError for an unknown name.
    """

    def __init__(self, names: Sequence[str], target_language: str | None = None, join_bpe: bool = False):
        for name in names:
            if name not in SCORES:
                raise UserError(f"score {name!r} is unknown: {suggestion(name, SCORES, 'scores')}")
        self.names: Sequence[str] = tuple(names)
        self._language, self._clean = target_language, remove_bpe if join_bpe else str
        self._hypotheses: list[str] = []
        self._references: list[str] = []
        self.signatures()  # a score that lacks its target language is an error now

    def add(self, example: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Takes the answer's `text` and the example's `target`."""
        self._hypotheses.append(self._clean(answer["text"]))
        self._references.append(self._clean(example["target"]))

    def result(self) -> dict[str, float]:
        """The scores by their names. Raises UserError where nothing was added."""
        if not self._hypotheses:
            raise UserError("there are no answers to score: give at least one example")
        values: dict[str, float] = {}
        for name in self.names:
            values |= SCORES[name](self._hypotheses, self._references, self._language)[0]
        return values

    def signatures(self) -> dict[str, str]:
        """sacreBLEU's signatures of the scores: what exactly was computed, and by which version."""
        found = {name: SCORES[name]([""], [""], self._language)[1] for name in self.names}
        return {name: text for name, text in found.items() if text is not None}


def remove_bpe(text: str) -> str:
    """Joins the pieces of subword-nmt's BPE: "ka@@ ra@@ te" is "karate"."""
    return re.sub(r"@@ |@@ ?$", "", text)


def compound_split(text: str, language: str) -> str:
    """Moses' tokens of raw text, and compounds apart at their hyphens: "rich ##AT##-##AT## text format".

    As in Tensor2Tensor's get_ende_bleu.sh: `tokenizer.perl -l de`, which escapes & | < > ' " [ ] as XML, then
    `s{(\\S)-(\\S)}{$1 ##AT##-##AT## $2}g`, which leaves the second hyphen of "a-b-c" alone.
    """
    tokens = _moses_tokenizer(language).tokenize(text, return_str=True)
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", tokens)


@functools.cache
def _moses_tokenizer(language: str) -> Any:
    from sacremoses import MosesTokenizer  # half a second of tables that few runs need

    return MosesTokenizer(language)


def _tokenised_bleu() -> BLEU:
    return BLEU(tokenize="none", smooth_method="none", force=True)  # else it warns of tokenised text


def _bleu(name: str, metric: BLEU, hypotheses: list[str], references: list[str]) -> tuple[dict[str, float], str]:
    result = metric.corpus_score(hypotheses, [references])
    values = {name: result.score}
    values |= {f"{name}_p{order}": precision for order, precision in enumerate(result.precisions, 1)}
    values[f"{name}_brevity_penalty"] = result.bp
    values[f"{name}_hypothesis_length"] = float(result.sys_len)
    values[f"{name}_reference_length"] = float(result.ref_len)
    return values, str(metric.get_signature())


def _code(language: str | None) -> str:
    """The language of a locale: "pt" of "pt_BR"; "" where there is none."""
    return re.split("[_-]", language or "")[0].lower()
