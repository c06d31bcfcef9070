"""Every file of the corpus is read, or refused in one line that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.make_corpus import CORPUS, files
from weightcast.cli.yaml_files import read_yaml
from weightcast_lab.data.picture_files import read_picture
from weightcast_lab.data.speech.audio import read_audio
from weightcast_lab.report.results import read_results


def picture(path: Path) -> Any:
    return read_picture({"bytes": None, "path": str(path)}, "row 3")


READERS: dict[str, Any] = {
    **dict.fromkeys((".yaml", ".json"), read_yaml),
    **dict.fromkeys((".png", ".jpg", ".tiff"), picture),
    ".jsonl": lambda path: read_results([path]),
    ".wav": read_audio,
}


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
def test_a_file_is_read_or_refused_by_name(name):
    read = READERS[Path(name).suffix]
    if name.startswith("read"):
        assert len(read(CORPUS / name))
    else:
        with pytest.raises(ValueError, match=name.replace(".", r"\.")) as error:
            read(CORPUS / name)
        assert "Traceback" not in str(error.value)


def test_the_corpus_is_what_the_script_makes():
    assert {path.name for path in CORPUS.iterdir()} == set(files())
    for name, data in files().items():
        if Path(name).suffix not in (".png", ".jpg", ".tiff"):  # which Pillow's version decides
            assert (CORPUS / name).read_bytes() == data, name
