"""A translation task without a download: short phrases that CLDR (through Babel) writes in English and any language.

Dates in every CLDR format, durations, quantities with units, currency amounts, territory and language names, alone or
two joined to a phrase: "in 3 days – Wednesday, May 12, 2021" is in French "dans 3 jours – mercredi 12 mai 2021". The
order of words, plurals, number and date formats differ as they do between real languages. Text is as CLDR gives it:
non-breaking spaces (U+00A0, U+202F) stay, and are scored.
"""

import datetime
import difflib
import functools
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from babel import Locale
from babel.core import get_global
from babel.dates import TIMEDELTA_UNITS, format_date, format_skeleton, format_timedelta
from babel.lists import format_list
from babel.localedata import locale_identifiers
from babel.numbers import format_currency, get_territory_currencies
from babel.units import format_unit

from research.data.source import Example, Source, check_split
from research.errors import UserError
from research.ranges import Range, Seed

ENGLISH = Locale("en")
FIRST_DAY = datetime.date(2000, 1, 1)
NUM_DAYS = 40 * 365  # dates of one century: "5/4/21" says no more than that
NUM_DATES, NUM_TERRITORIES, NUM_LANGUAGES, NUM_UNITS, NUM_CURRENCIES = 1500, 60, 40, 25, 12
SINGLE_PART = 0.4  # share of phrases with one part; the others have two
Joint = Literal["standard", "or", "unit", "dash"]  # "A and B", "A or B", "A, B" as CLDR writes lists, and "A – B"

Part = Callable[..., str]  # writes itself in the language of its argument `locale`
Pair = tuple[str, str]  # the same in English and in the other language


@dataclass(frozen=True)
class Phrasebook(Source):
    """English phrases and their translation; a pure function of its fields.

    language: a CLDR locale such as "fr" or "pt_BR". size: training phrases; 1/40 as many for validation and 1/20 for
    the test. No English phrase and no translation occurs twice, within a split or between splits. Languages written
    without spaces (ja, zh, th) need a character or bpe tokenizer.
    """

    language: str = "fr"
    size: Annotated[int, Range(40, 1_000_000)] = 20_000
    seed: Seed = 0

    splits = ("train", "validation", "test")

    def examples(self, split: str) -> Sequence[Example]:
        """{"source": English phrase, "target": translation}; a UserError if CLDR lacks the language or the words."""
        check_split(split, self.splits)
        phrases = _phrases(self.language, self.size, self.seed)
        test, validation = self.size // 20, self.size // 20 + self.size // 40
        where = {"test": slice(0, test), "validation": slice(test, validation), "train": slice(validation, None)}
        return [{"source": source, "target": target} for source, target in phrases[where[split]]]


@functools.lru_cache(maxsize=4)
def _phrases(language: str, size: int, seed: int) -> tuple[Pair, ...]:
    """All phrases in random order."""
    locale, rng = _locale(language), random.Random(seed)
    pools = _pools(locale, rng)
    kinds = [kind for kind, (weight, pool) in pools.items() if pool]
    weights = [pools[kind][0] for kind in kinds]
    wanted = size + size // 40 + size // 20
    phrases: dict[str, str] = {}
    translations = set()
    for _ in range(20 * wanted):
        if len(phrases) == wanted or not kinds:
            break
        count = 1 if rng.random() < SINGLE_PART else 2
        parts = [rng.choice(pools[kind][1]) for kind in rng.choices(kinds, weights, k=count)]
        joint = rng.choice(get_args(Joint))
        english, translation = (
            _join([part[side] for part in parts], joint, where) for side, where in enumerate((ENGLISH, locale))
        )
        if len(set(parts)) == count and english not in phrases and translation not in translations:
            phrases[english] = translation
            translations.add(translation)
    if len(phrases) < wanted:
        most = len(phrases) * 40 // 43
        raise UserError(f"size {size} is more than the words of language {language!r} give: use at most {most}")
    pairs = list(phrases.items())
    rng.shuffle(pairs)  # phrases that soon run out, such as a name alone, came early
    return tuple(pairs)


def _locale(language: str) -> Locale:
    identifiers = locale_identifiers()
    if language in identifiers:
        return Locale.parse(language)
    known = {identifier.lower(): identifier for identifier in identifiers}
    known |= {name.lower(): code for code, name in ENGLISH.languages.items() if code in identifiers}
    matches = difflib.get_close_matches(language.replace("-", "_").lower(), known, n=3, cutoff=0.3)
    nearest = " or ".join(dict.fromkeys(known[match] for match in matches)) or "a CLDR code such as fr, de or ja"
    raise UserError(f"language {language!r} is not in CLDR: use {nearest}")


def _join(parts: list[str], joint: Joint, locale: Locale) -> str:
    return " \u2013 ".join(parts) if joint == "dash" else format_list(parts, style=joint, locale=locale)


def _pools(locale: Locale, rng: random.Random) -> dict[str, tuple[float, list[Pair]]]:
    """The parts of each kind in both languages with the kind's share, without those that have two translations."""
    kinds = {
        "date": (0.35, _dates(locale, rng)),
        "duration": (0.15, _durations()),
        "quantity": (0.18, _quantities(locale, rng)),
        "currency": (0.12, _currencies(locale, rng)),
        "territory": (0.12, _territories(locale)),
        "language": (0.08, _languages(locale)),
    }
    pools = {
        kind: (share, [(part(locale=ENGLISH), part(locale=locale)) for part in parts])
        for kind, (share, parts) in kinds.items()
    }
    translations = defaultdict(set)
    for _, pairs in pools.values():
        for english, translation in pairs:
            translations[english].add(translation)
    return {
        kind: (share, [pair for pair in pairs if all(pair) and len(translations[pair[0]]) == 1])
        for kind, (share, pairs) in pools.items()
    }


def _dates(locale: Locale, rng: random.Random) -> Iterator[Part]:
    shared = ENGLISH.datetime_skeletons.keys() & locale.datetime_skeletons.keys()
    skeletons = sorted(name for name in shared if set(name) <= set("yQMdE") and len(set(name)) > 1)
    for day in rng.sample(range(NUM_DAYS), NUM_DATES):
        date = FIRST_DAY + datetime.timedelta(days=day)
        for style in ("full", "long", "medium", "short"):
            yield functools.partial(format_date, date, style)
        for skeleton in skeletons:
            yield functools.partial(format_skeleton, skeleton, date)


def _durations() -> Iterator[Part]:
    for unit, seconds in TIMEDELTA_UNITS:
        for count in [*[1] * 4, *range(2, 60)]:
            for sign, directed in ((1, False), (1, True), (-1, True)):  # "3 days", "in 3 days", "3 days ago"
                duration = datetime.timedelta(seconds=sign * count * seconds)
                # An endless threshold keeps the unit: 45 days must not become 2 months.
                options: dict[str, Any] = {"granularity": unit, "threshold": float("inf"), "add_direction": directed}
                yield functools.partial(format_timedelta, duration, **options)


def _numbers(rng: random.Random) -> list[int]:
    # Mostly small; 1 comes more often, since most languages have a form for it alone.
    small, large = (
        rng.sample(range(20, 100), 20),
        [*rng.sample(range(100, 1000), 8), *rng.sample(range(1000, 10_000), 6)],
    )
    return [*[1] * 5, *range(2, 20), *small, *large]


def _quantities(locale: Locale, rng: random.Random) -> Iterator[Part]:
    # Frequent words are short (Zipf): the shortest one-word names are the everyday units.
    plurals = {unit: format_unit(2, unit, "long", locale=ENGLISH).removeprefix("2 ") for unit in _units(locale)}
    words = [unit for unit, name in plurals.items() if name.isalpha() and not unit.startswith("duration")]
    for unit in sorted(words, key=lambda unit: (len(plurals[unit]), unit))[:NUM_UNITS]:
        for number in _numbers(rng):
            yield functools.partial(format_unit, number, unit, "long")


def _units(locale: Locale) -> list[str]:
    """The units that both languages name and whose English plural is not the singular."""
    named = [unit for unit in ENGLISH.unit_display_names if "long" in locale.unit_display_names.get(unit, ())]
    one, two = ({unit: format_unit(number, unit, "long", locale=ENGLISH)[2:] for unit in named} for number in (1, 2))
    return [unit for unit in named if one[unit] != two[unit]]


def _currencies(locale: Locale, rng: random.Random) -> Iterator[Part]:
    territories = Counter(
        currency for territory in get_global("territory_currencies") for currency in get_territory_currencies(territory)
    )
    for currency in _most_common(territories, locale.currencies, NUM_CURRENCIES):
        for number in _numbers(rng):
            for style in ("standard", "name"):
                cents = rng.choice((0, rng.randrange(100))) if number > 1 else 0
                yield functools.partial(format_currency, number + cents / 100, currency, format_type=style)


def _territories(locale: Locale) -> Iterator[Part]:
    territories = Counter(Locale.parse(identifier).territory for identifier in locale_identifiers())
    for territory in _most_common(territories, locale.territories, NUM_TERRITORIES):
        yield functools.partial(lambda code, locale: locale.territories[code], territory)


def _languages(locale: Locale) -> Iterator[Part]:
    languages = Counter(Locale.parse(identifier).language for identifier in locale_identifiers())
    for language in _most_common(languages, locale.languages, NUM_LANGUAGES):
        yield functools.partial(lambda code, locale: locale.languages[code], language)


def _most_common(counts: Counter, named: Container[str], limit: int) -> list[str]:
    """The `limit` most frequent codes (by how many CLDR locales or territories use them) that the language names."""
    return sorted((code for code in counts if code in named), key=lambda code: (-counts[code], code))[:limit]
