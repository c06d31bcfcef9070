import pytest

from weightcast_lab.data.speech import FOLDED, PHONES, fold

GROUPS = [
    "aa ao",
    "ah ax ax-h",
    "er axr",
    "hh hv",
    "ih ix",
    "l el",
    "m em",
    "n en nx",
    "ng eng",
    "sh zh",
    "uw ux",
    "pcl tcl kcl bcl dcl gcl h# pau epi",
]
ALONE = "iy eh ey ae aw ay oy ow uh jh ch s z f th v dh r w y b d g p t k dx"  # with GROUPS: 39


def test_there_are_61_phones_and_39_classes():
    assert len(set(PHONES)) == len(PHONES) == 61
    assert FOLDED.keys() == set(PHONES)
    assert len(set(FOLDED.values()) - {None}) == 39


def test_classes_are_those_of_lee_and_hon():
    for group in GROUPS:
        assert len({FOLDED[phone] for phone in group.split()}) == 1, group
    firsts = [group.split()[0] for group in GROUPS]
    classes = {FOLDED[phone] for phone in (*firsts, *ALONE.split())}
    assert len(classes) == len(GROUPS) + len(ALONE.split()) == 39
    for phone in ALONE.split():
        assert FOLDED[phone] == phone
    named = sum((group.split() for group in GROUPS), ALONE.split())
    assert sorted([*named, "q"]) == sorted(PHONES)


def test_the_glottal_stop_is_left_out_and_silence_is_one_class():
    assert FOLDED["q"] is None
    assert FOLDED["h#"] == FOLDED["tcl"] == "sil"
    labels = [PHONES.index(phone) for phone in ("h#", "q", "ax", "tcl", "kcl", "zh")]
    assert fold(labels) == ["sil", "ah", "sil", "sil", "sh"]


def test_an_unknown_phone_has_no_place():
    with pytest.raises(IndexError):
        fold([61])
