"""The quick fold of everyday postings answers nothing else than the fold, or not at all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loyalty.ledger.checks import Chain
from loyalty.ledger.plain import plain_fold
from loyalty.ledger.state import LedgerDefect, Posting, State, fold
from tests.chains import make

ENTRIES = [entry for seed in range(12) for entry in make(members=2, length=60, seed=seed)]


def steps() -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The wallets before each entry, and its postings."""
    before: dict[int, Any] = {}
    for entry in ENTRIES:
        member = entry["_id"] >> 24
        yield {} if entry["_id"] & 0xFFFFFF == 1 else before[member], entry["postings"]
        before[member] = entry["state"]["wallets"]


HOLDS = [step for step in steps() if any("held" in (posting["from"], posting["to"]) for posting in step[1])]


def folded(wallets: dict[str, Any], postings: list[dict[str, Any]]) -> Any:
    """By values; the name of the exception where there is no answer."""
    try:
        state = fold(State.of({"wallets": wallets}), [Posting.of(posting) for posting in postings])
    except (LedgerDefect, TypeError) as error:
        return type(error).__name__
    assert not [defect for wallet in state.wallets.values() for defect in wallet.defects()]
    return state.document()["wallets"]


def test_most_entries_are_plain_and_all_answers_agree() -> None:
    plain = 0
    for wallets, postings in steps():
        answer = plain_fold(wallets, postings)
        if answer is not None:
            plain += 1
            assert answer == folded(wallets, postings)
    assert plain > len(ENTRIES) * 0.95


@given(st.integers(0, len(ENTRIES) - 2), st.randoms(use_true_random=False))
def test_damaged_postings_get_no_better_answer(place: int, random_: random.Random) -> None:
    wallets = ENTRIES[place]["state"]["wallets"]
    postings = [dict(posting) for posting in ENTRIES[random_.randrange(len(ENTRIES))]["postings"]]
    for posting in postings:
        name = random_.choice(list(posting))
        others = [other[name] for entry in islice(ENTRIES, 200) for other in entry["postings"] if name in other]
        posting[name] = random_.choice([*others, 0, -1, 1 << 40] if isinstance(posting[name], int) else others)
        if random_.random() < 0.2:
            posting.pop("expires_at", None)
    answer = plain_fold(wallets, postings)
    if answer is not None:
        assert answer == folded(wallets, postings)


@given(st.sampled_from(HOLDS), st.randoms(use_true_random=False))
def test_damaged_holds_get_no_better_answer(step: Any, random_: random.Random) -> None:
    wallets, postings = step[0], [dict(posting) for posting in step[1]]
    for posting in postings:
        name = random_.choice(["from", "to", "points", "lot", "into", "hold", "until", "grace_days", "expires_at"])
        others = [other[name] for _, some in HOLDS[:100] for other in some if name in other]
        posting[name] = random_.choice([*others, None])
        if random_.random() < 0.2:
            del posting[name]
    try:
        answer = plain_fold(wallets, postings)
    except (KeyError, TypeError):
        return  # it has not the form of a posting, and is a defect
    if answer is not None:
        assert answer == folded(wallets, postings)


def test_every_kind_of_entry_is_sound() -> None:
    chains: dict[int, Chain] = {}
    for entry in make(members=6, length=80, seed=99):
        chain = chains.setdefault(entry["_id"] >> 24, Chain(entry["_id"] >> 24))
        assert chain.step(entry) == []
