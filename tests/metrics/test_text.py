"""Corpus scores against cases computed by hand and against what Moses' own Perl scripts print."""

import importlib.util
import math
import re
from collections.abc import Sequence

import pytest

from research.errors import UserError
from research.metrics.text import SCORES, TextScorer, compound_split


def score(names: Sequence[str], hypotheses: Sequence[str], references: Sequence[str], language: str | None = None):
    scorer = TextScorer(names, language)
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        scorer.add({"target": reference}, {"text": hypothesis})
    return scorer.result()


def signature(names: Sequence[str], language: str | None = None) -> dict[str, str]:
    return TextScorer(names, language).signatures()


WITHOUT_MECAB = [name for name in SCORES if name != "mecab_bleu"]

# N-grams that match / n-grams of the hypotheses:
#   "a b c d e"   against "a b c d f":        4/5  3/4  2/3  1/2
#   "the cat sat" against "the cat sat down": 3/3  2/2  1/1  0/0
# together 7/8 5/6 3/4 1/2, with 8 tokens for 9.
HYPOTHESES = ["a b c d e", "the cat sat"]
REFERENCES = ["a b c d f", "the cat sat down"]
VALUE = 100 * math.exp(1 - 9 / 8) * (7 / 8 * 5 / 6 * 3 / 4 * 1 / 2) ** 0.25


@pytest.mark.parametrize("name", ["bleu", "multi_bleu", "compound_split_bleu"])
def test_bleu_of_a_corpus_with_its_parts(name: str):
    assert score([name], HYPOTHESES, REFERENCES, "de") == pytest.approx(
        {
            name: VALUE,
            f"{name}_p1": 100 * 7 / 8,
            f"{name}_p2": 100 * 5 / 6,
            f"{name}_p3": 75.0,
            f"{name}_p4": 50.0,
            f"{name}_brevity_penalty": math.exp(-1 / 8),
            f"{name}_hypothesis_length": 8.0,
            f"{name}_reference_length": 9.0,
        }
    )


def test_only_sacrebleu_smooths():
    # Two of the four "the" count, as the reference has two; no longer n-gram matches. 4 tokens for 5.
    texts = ["the the the the"], ["the cat the mat x"]
    plain = score(["multi_bleu"], *texts)
    assert plain["multi_bleu"] == 0 and [plain[f"multi_bleu_p{n}"] for n in (1, 2, 3, 4)] == [50, 0, 0, 0]
    # 0 of 3, 2 and 1 n-grams become 1/2, 1/4 and 1/8 of one.
    smooth = (2 / 4 * 1 / (2 * 3) * 1 / (4 * 2) * 1 / (8 * 1)) ** 0.25
    assert score(["bleu"], *texts)["bleu"] == pytest.approx(100 * math.exp(-1 / 4) * smooth)


def test_multi_bleu_reads_the_tokens_as_given():
    raw, tokenised = ["Eins, zwei: drei, vier!"], ["Eins , zwei : drei , vier !"]
    both = score(["bleu", "multi_bleu"], raw, tokenised)
    assert both["bleu"] == pytest.approx(100)
    assert both["multi_bleu_hypothesis_length"] == 4 and both["multi_bleu_reference_length"] == 8
    # Upper and lower case differ: 3 of 4, 1 of 3 and nothing longer.
    cased = score(["multi_bleu"], ["a b C d"], ["a b c d"])
    assert [cased[f"multi_bleu_p{n}"] for n in (1, 2, 3, 4)] == pytest.approx([75, 100 / 3, 0, 0])


@pytest.mark.parametrize(("language", "length"), [("ja", 4), ("zh_Hans", 4), ("de", 1), (None, 1)])
def test_languages_without_spaces_are_cut_by_sacrebleu(language: str | None, length: int):
    assert score(["bleu"], ["猫在这里"], ["猫在那里"], language)["bleu_hypothesis_length"] == length


def test_chrf():
    # "ab" against "abc": precision 1 and recall 2/3 of characters, 1 and 1/2 of pairs, no triple in both. On average
    # 1 and 7/12, so F2 = 5 * 7/12 / (4 + 7/12) = 7/11.
    assert score(["chrf"], ["ab"], ["abc"]) == pytest.approx({"chrf": 100 * 7 / 11})


def test_exact_match_is_a_fraction():
    assert score(["exact_match"], ["a b", "a  b", "", "c"], ["a b", "a b", "", "c"]) == {"exact_match": 0.75}


def test_compound_split_bleu():
    # "ein rich ##AT##-##AT## text Brief ." and "... text Blatt .": 5/6 3/5 2/4 1/3; unsplit it would be 3/4 1/3 0 0.
    value = score(["compound_split_bleu"], ["ein rich-text Brief."], ["ein rich-text Blatt."], "de_AT")
    assert value["compound_split_bleu"] == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    with pytest.raises(UserError, match="give the target language, such as de"):
        score(["compound_split_bleu"], ["a"], ["a"])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [  # printed by Moses' tokenizer.perl -l de and the substitution of get_ende_bleu.sh
        (
            'Der "rich-text format" von z.B. Dr. Müller kostet 5,300 €... oder a-b-c (siehe [1]) & mehr | <b>fett</b>.',
            "Der &quot; rich ##AT##-##AT## text format &quot; von z.B. Dr. Müller kostet 5,300 € ... oder "
            "a ##AT##-##AT## b-c ( siehe &#91; 1 &#93; ) &amp; mehr &#124; &lt; b &gt; fett &lt; / b &gt; .",
        ),
        (
            "Am 3. Oktober um 12:30 Uhr war's — sagte er — „schön“. Nr. 5 und Nr. Fünf, usw. etc. und so weiter.",
            "Am 3. Oktober um 12 : 30 Uhr war &apos; s — sagte er — „ schön “ . Nr. 5 und Nr. Fünf , usw. etc. und so "
            "weiter .",
        ),
        ("", ""),
    ],
)
def test_compound_split_equals_moses(text: str, tokens: str):
    assert compound_split(text, "de") == tokens


def test_empty_hypotheses_score_nothing():
    values = score(WITHOUT_MECAB, ["", ""], ["a b c d e", "f"], "de")
    assert values["bleu_reference_length"] == 6 and values["bleu_hypothesis_length"] == 0
    lengths = ("bleu_reference_length", "multi_bleu_reference_length", "compound_split_bleu_reference_length")
    assert not any(value for name, value in values.items() if name not in lengths)


def test_signatures_say_what_was_computed():
    signatures = signature(WITHOUT_MECAB, "de")
    assert set(signatures) == {*WITHOUT_MECAB} - {"exact_match"}
    assert re.fullmatch(r"nrefs:1\|case:mixed\|eff:no\|tok:13a\|smooth:exp\|version:[\d.]+", signatures["bleu"])
    assert re.fullmatch(r"nrefs:1\|case:mixed\|eff:no\|tok:none\|smooth:none\|version:.*", signatures["multi_bleu"])
    assert re.search(r"\|tok:sacremoses-[\d.]+-de-compound-split\|", signatures["compound_split_bleu"])
    assert "nc:6" in signatures["chrf"]
    assert "tok:char" in signature(["bleu"], "ja")["bleu"]


def test_unknown_scores_and_nothing_to_score():
    with pytest.raises(UserError, match="score 'blue' is unknown: did you mean bleu"):
        TextScorer(["blue"])
    with pytest.raises(UserError, match="there are no answers to score"):
        TextScorer(["bleu"]).result()


def test_japanese_words_need_mecab(monkeypatch):
    """With it installed they are those of its dictionary; without, one sentence before any training."""
    if importlib.util.find_spec("MeCab"):
        assert score(["mecab_bleu"], ["猫が好きです"], ["猫が好きです"])["mecab_bleu"] > 0
    else:
        with pytest.raises(UserError, match=r"mecab_bleu needs MeCab: install it with pip install 'sacrebleu\[ja\]'"):
            TextScorer(["bleu", "mecab_bleu"], "ja")
