import os
import shutil

import numpy as np
import pytest
from scipy.io import wavfile

from tests.lab.speech_corpora import PHRASE, write_timit
from weightcast_lab.data.speech import PHONES, FeatureSettings, log_mel, read_audio, read_timit
from weightcast_lab.data.speech.timit import CORE, _choose_speakers, _Sentence

SETTINGS = FeatureSettings(bands=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_timit(tmp_path_factory.mktemp("timit"))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def read(folder, **options):
    return read_timit(folder, SETTINGS, test_set="part", **options)


def speakers(recordings):
    return sorted({recording.speaker for recording in recordings})


def test_all_sentences_but_sa_are_read(folder):
    corpus = read(folder, n_validation=1)
    assert corpus.name == "a part of TIMIT"
    assert corpus.classes == PHONES
    assert speakers(corpus.train) == ["FTRX3", "MTRX0", "MTRX2"]
    assert speakers(corpus.validation) == ["FTRX1"]
    assert speakers(corpus.test) == ["FTEX1", "MTEX0"]
    assert [len(split) for split in (corpus.train, corpus.validation, corpus.test)] == [24, 8, 16]
    assert [r.name for r in corpus.test[:8]] == [
        *(f"FTEX1_SI{i}" for i in (7, 8, 9)),
        *(f"FTEX1_SX{i}" for i in (3, 4, 5, 6, 7)),
    ]


def test_frames_have_the_phone_in_their_middle(folder):
    for recording in read(folder).test[:3]:
        speaker, sentence = recording.name.split("_")
        stem = next(folder.glob(f"TEST/*/{speaker}/{sentence}.PHN")).with_suffix("")
        rate, signal = read_audio(stem.with_suffix(".WAV"))
        assert np.array_equal(recording.frames, log_mel(signal, rate, SETTINGS))
        segments = [line.split() for line in stem.with_suffix(".PHN").read_text().splitlines()]
        assert recording.transcript == tuple(PHONES.index(phone) for phone in PHRASE)
        for t, label in enumerate(recording.labels):
            middle = 160 * t + 200
            spoken = [p for start, end, p in segments if int(start) <= middle < int(end)]
            assert [PHONES[label]] == spoken


def test_lower_case_and_a_folder_around_it_make_no_difference(folder, tmp_path):
    lower = write_timit(tmp_path / "timit", lower=True)
    assert {path.suffix for path in lower.rglob("*.*")} == {".wav", ".phn"}
    ours, theirs = read(tmp_path), read(folder)
    for a, b in zip((*ours.train, *ours.test), (*theirs.train, *theirs.test), strict=True):
        assert (a.name, a.speaker, a.transcript) == (b.name, b.speaker, b.transcript)
        assert np.array_equal(a.frames, b.frames)
        assert np.array_equal(a.labels, b.labels)


def test_nothing_in_the_folder_is_changed(copy):
    def state():
        return {p: (os.stat(p).st_mtime_ns, p.is_dir() or p.read_bytes()) for p in copy.rglob("*")}

    before = state()
    read(copy)
    (copy / "TRAIN/DR1/MTRX0/SX3.PHN").unlink()
    del before[copy / "TRAIN/DR1/MTRX0/SX3.PHN"]
    with pytest.raises(ValueError, match="missing"):
        read(copy)
    before[copy / "TRAIN/DR1/MTRX0"] = state()[copy / "TRAIN/DR1/MTRX0"]
    assert state() == before


def test_a_folder_that_is_no_timit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*none: give the folder of LDC93S1"):
        read(tmp_path / "none")
    with pytest.raises(ValueError, match="has no folders TRAIN and TEST"):
        read(tmp_path)
    for split in ("TRAIN", "TEST"):
        (tmp_path / split).mkdir()
    with pytest.raises(ValueError, match=r"TRAIN has no speakers in DR1 \.\.\. DR8"):
        read(tmp_path)


def test_missing_files_are_counted_and_named(copy):
    place = copy / "TRAIN/DR2/FTRX1"
    for name in ("SX3.PHN", "SX4.WAV", "SI7.WAV", "SI7.PHN"):
        (place / name).unlink()
    (copy / "TRAIN/DR4/FTRX3/SA1.PHN").unlink()
    with pytest.raises(
        ValueError,
        match=r"4 files of TIMIT are missing: TRAIN/DR2/FTRX1/SX3\.PHN, TRAIN/DR2/FTRX1/SX4\.WAV, "
        r"TRAIN/DR2/FTRX1/SI\?\.WAV, TRAIN/DR4/FTRX3/SA1\.PHN; copy the corpus",
    ):
        read(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 900 h#\n900 1000\n", r"SX5\.PHN, line 2: '900 1000' is not START END PHONE"),
        ("0 900 h#\n900 1000 xy\n", r"line 2: 'xy' is none of TIMIT's 61 phones"),
        ("0 900 h#\n100 800 sh\n", r"line 2: 100 to 800 does not go on from 900"),
        ("0 0 h#\n", r"line 1: 0 to 0 does not go on from 0"),
        ("\n", r"SX5\.PHN holds no phones"),
        (
            "0 90000 h#\n",
            r"SX5\.PHN ends at sample 90000, its recording has \d+: they do not belong",
        ),
        ("0 900 h\u00e4\n", r"cannot read the transcription .*SX5\.PHN"),
    ],
)
def test_transcriptions_that_do_not_fit_are_refused(copy, text, message):
    (copy / "TEST/DR1/MTEX0/SX5.PHN").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read(copy)


def test_a_resampled_recording_is_refused(copy):
    path = copy / "TRAIN/DR1/MTRX0/SI8.WAV"
    wavfile.write(path, 8000, wavfile.read(path)[1])
    with pytest.raises(ValueError, match=r"SI8\.WAV has 8000 samples a second, .* at 16000"):
        read(copy)


def test_a_part_of_timit_is_not_taken_for_the_whole(folder):
    for test_set in ("core", "full"):
        with pytest.raises(
            ValueError,
            match=r"4 of 462 training speakers and 2 of 168 test speakers, and of the core test "
            r"set FDHC0, FELC0, .* and 19 more are missing; .* set test_set to 'part'",
        ):
            read_timit(folder, SETTINGS, test_set=test_set)


def sentences(names):
    return [_Sentence(name, "SX1", None, None) for name in names]


def test_the_core_test_set_is_24_speakers_of_the_168():
    assert len(CORE) == 24
    assert sum(name.startswith("F") for name in CORE) == 8
    train = sentences(f"MTRN{i}" for i in range(462))
    test = sentences([*CORE, *(f"MTST{i}" for i in range(144))])
    assert {s.speaker for s in _choose_speakers(train, test, "core")} == CORE
    assert _choose_speakers(train, test, "full") == test
    other = [*test[1:], *sentences(["MTST144"])]
    with pytest.raises(ValueError, match=f"core test set {test[0].speaker} are missing"):
        _choose_speakers(train, other, "full")


@pytest.mark.parametrize("n", [-1, 4])
def test_as_many_validation_speakers_as_there_are_are_refused(folder, n):
    with pytest.raises(ValueError, match=f"n_validation is {n}: of 4 training speakers, between 0"):
        read(folder, n_validation=n)


def test_fewer_recordings_are_spread_over_speakers(folder):
    corpus = read(folder, max_recordings=4)
    assert len(corpus.train) == len(corpus.test) == 4
    assert len(speakers(corpus.train)) == 4
