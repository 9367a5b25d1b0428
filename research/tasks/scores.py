"""Scores of whole corpora of translations, computed on raw text by the field's own tools.

Each score is a function `score(hypotheses, references, target_language)` that returns its values by name and, where
sacreBLEU computes them, the signature that a published number needs beside it. BLEU and chrF run from 0 to 100.
"""

import functools
import importlib.metadata
import re
from collections.abc import Callable, Sequence
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


SCORES: dict[str, Callable[[list[str], list[str], str | None], Result]] = {
    "bleu": bleu,
    "chrf": chrf,
    "exact_match": exact_match,
    "multi_bleu": multi_bleu,
    "compound_split_bleu": compound_split_bleu,
}


def score(
    names: Sequence[str], hypotheses: list[str], references: list[str], target_language: str | None = None
) -> dict[str, float]:
    """The named scores of a corpus with one reference for each hypothesis, which may be empty.

    A BLEU `b` comes with its precisions b_p1 to b_p4 (0 to 100), b_brevity_penalty, b_hypothesis_length and
    b_reference_length (tokens). target_language: a code such as "de" or "pt_BR". Raises UserError for an unknown name,
    for no hypotheses, and for another number of references.
    """
    functions = _functions(names)
    if not hypotheses or len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} hypotheses for {len(references)} references: give one for each, at least 1")
    values: dict[str, float] = {}
    for function in functions.values():
        values |= function(hypotheses, references, target_language)[0]
    return values


def signature(names: Sequence[str], target_language: str | None = None) -> dict[str, str]:
    """sacreBLEU's signatures of the named scores: what exactly was computed, and by which version.

    Scores that have none are left out. Raises UserError for an unknown name.
    """
    signatures = {name: function([""], [""], target_language)[1] for name, function in _functions(names).items()}
    return {name: text for name, text in signatures.items() if text is not None}


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


def _bleu(name: str, metric: BLEU, hypotheses: list[str], references: list[str]) -> Result:
    result = metric.corpus_score(hypotheses, [references])
    values = {name: result.score}
    values |= {f"{name}_p{order}": precision for order, precision in enumerate(result.precisions, 1)}
    values[f"{name}_brevity_penalty"] = result.bp
    values[f"{name}_hypothesis_length"] = float(result.sys_len)
    values[f"{name}_reference_length"] = float(result.ref_len)
    return values, str(metric.get_signature())


def _functions(names: Sequence[str]) -> dict[str, Callable[[list[str], list[str], str | None], Result]]:
    for name in names:
        if name not in SCORES:
            raise UserError(f"score {name!r} is unknown: {suggestion(name, SCORES, 'scores')}")
    return {name: SCORES[name] for name in names}


def _code(language: str | None) -> str | None:
    """The language of a locale: "pt" of "pt_BR"."""
    return language and re.split("[_-]", language)[0].lower()
