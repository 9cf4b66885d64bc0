"""Every mistake of the table is caught by its check, in its words; nothing else changes."""

from __future__ import annotations

import re

import pytest

from k8s import checks, mutations, sources
from k8s.bundle import objects

_IDS = [f"{m.check}: {m.mistake}" for m in mutations.OBJECTS]
_TEXT_IDS = [f"{m.check}: {m.mistake}" for m in mutations.TEXTS]


@pytest.mark.parametrize("mutation", mutations.OBJECTS, ids=_IDS)
def test_a_mistake_in_a_bundle_is_caught(mutation):
    check = checks.OBJECTS[mutation.check]
    changed = objects(mutation.bundle)
    assert check(changed) == [], "clean before"
    mutation.change(changed)
    assert changed != objects(mutation.bundle), "the mistake changes what is rendered"
    found = check(changed)
    assert any(mutation.words in problem for problem in found), found


@pytest.mark.parametrize("mutation", mutations.TEXTS, ids=_TEXT_IDS)
def test_a_mistake_in_a_file_is_caught(mutation):
    check = checks.TEXTS[mutation.check]
    texts = sources.read()
    assert check(texts) == [], "clean before"
    mutation.change(texts)
    assert texts != sources.read()
    found = check(texts)
    assert any(re.search(mutation.words, problem) for problem in found) or any(
        mutation.words in problem for problem in found
    ), found


def test_every_check_is_proven_by_a_mistake():
    assert {m.check for m in mutations.OBJECTS} == set(checks.OBJECTS)
    assert {m.check for m in mutations.TEXTS} == set(checks.TEXTS)


def test_every_mistake_has_a_name_of_its_own():
    assert len(set(_IDS + _TEXT_IDS)) == len(_IDS) + len(_TEXT_IDS) >= 40
