"""WordNet's glosses: read, parted and cut, from files of WordNet's form."""

import pytest

from weightcast_lab.data import glosses
from weightcast_lab.data.glosses import Gloss, draw_glosses, read_glosses, token_windows

LICENCE = "  1 This software and database | is being provided to you\n"


@pytest.fixture
def wordnet(tmp_path):
    for number, part in enumerate(("adj", "adv", "noun", "verb")):
        lines = [
            f"0000{i} {10 * number + i:02} n 01 w 0 000 | {part} {i}; an example  \n"
            for i in (1, 2)
        ]
        (tmp_path / f"data.{part}").write_text(LICENCE + "".join(lines) + lines[0])
    return tmp_path


def test_each_text_is_read_once_with_its_class(wordnet):
    found = read_glosses(wordnet)
    assert len(found) == 8
    assert found[0] == Gloss("adj 1; an example", 1, "w")
    assert found[-1] == Gloss("verb 2; an example", 32, "w")


def test_test_glosses_are_never_for_calibration(wordnet, monkeypatch):
    monkeypatch.setattr(glosses, "N_TEST", 3)
    found = read_glosses(wordnet)
    calibration, test = glosses.split_glosses(found)
    assert len(test) == 3
    assert sorted(g.text for g in calibration + test) == sorted(g.text for g in found)
    assert glosses.split_glosses(found) == (calibration, test)


def test_windows_hold_whole_texts_in_the_order_of_the_draw(wordnet):
    found = read_glosses(wordnet)
    encode = lambda text: list(text.encode())  # noqa: E731
    windows = token_windows(found, encode, 3, 20, 7)
    assert windows.shape == (3, 20)
    text = bytes(windows.flatten().tolist()).decode()
    drawn = "\n".join(gloss.text for gloss in draw_glosses(found, 8, 7))
    assert drawn.startswith(text)
    assert not windows.equal(token_windows(found, encode, 3, 20, 8))
    with pytest.raises(ValueError, match="not 2000: ask for fewer windows"):
        token_windows(found, encode, 100, 20, 0)
    with pytest.raises(ValueError, match="draw at most 8"):
        draw_glosses(found, 9, 0)
