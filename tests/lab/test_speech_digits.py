import shutil

import numpy as np
import pytest
from scipy.io import wavfile

from tests.lab.speech_corpora import SPEAKERS, tone, write_digits
from weightcast_lab.data.speech import FeatureSettings, log_mel, read_audio, read_digits

SETTINGS = FeatureSettings(bands=8, shift=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("fsdd"))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy") / "recordings"


def names(recordings):
    return [recording.name for recording in recordings]


def test_the_test_split_is_the_first_five_of_each_speaker_and_digit(folder):
    corpus = read_digits(folder, SETTINGS)
    assert corpus.name == "FSDD, a stand-in for TIMIT"
    assert len(corpus.classes) == 30
    assert corpus.classes[4] == "1, part 2"
    every = [f"{d}_{s}_{{}}" for d in range(10) for s in SPEAKERS]
    assert sorted(names(corpus.test)) == sorted(n.format(i) for n in every for i in range(5))
    assert sorted(names(corpus.train)) == sorted(n.format(i) for n in every for i in (5, 6))
    assert corpus.validation == ()


def test_validation_recordings_come_from_training_alone(folder):
    corpus = read_digits(folder, SETTINGS, n_validation=1)
    assert {name[-1] for name in names(corpus.validation)} == {"5"}
    assert {name[-1] for name in names(corpus.train)} == {"6"}
    assert names(corpus.test) == names(read_digits(folder, SETTINGS).test)


def test_a_recording_is_its_features_in_three_parts_of_its_digit(folder):
    corpus = read_digits(folder / "recordings", SETTINGS)  # the folder itself will do
    for recording in corpus.train[::7]:
        rate, signal = read_audio(folder / "recordings" / f"{recording.name}.wav")
        assert np.array_equal(recording.frames, log_mel(signal, rate, SETTINGS))
        digit, speaker, _ = recording.name.split("_")
        assert recording.speaker == speaker
        assert recording.transcript == (int(digit),)
        n = len(recording.frames)
        assert recording.labels.tolist() == [3 * int(digit) + 3 * t // n for t in range(n)]


def test_fewer_recordings_are_spread_over_digits(folder):
    corpus = read_digits(folder, SETTINGS, n_validation=1, max_recordings=10)
    assert corpus.name == "FSDD, a stand-in for TIMIT, at most 10 recordings of a split"
    for split in (corpus.train, corpus.validation, corpus.test):
        assert len(split) == 10
        assert len({recording.transcript for recording in split}) >= 9


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*none: give the folder of the Free Spoken"):
        read_digits(tmp_path / "none", SETTINGS)
    with pytest.raises(ValueError, match=r"has no WAV files; .* DIGIT_SPEAKER_INDEX\.wav"):
        read_digits(tmp_path, SETTINGS)


def test_files_of_other_names_are_counted_and_named(copy):
    for name in ("10_ann_3.wav", "tea.wav", "1_ann.wav"):
        shutil.copy(copy / "0_ann_0.wav", copy / name)
    with pytest.raises(ValueError, match=r"3 WAV files of other names: 10_ann_3\.wav, 1_ann\.wav"):
        read_digits(copy.parent, SETTINGS)


def test_missing_recordings_are_counted_and_named(copy):
    for index in range(4):
        (copy / f"3_bob_{index}.wav").unlink()
    for digit in range(2):
        (copy / f"{digit}_ann_4.wav").unlink()
    with pytest.raises(
        ValueError,
        match=r"6 recordings of the test split are missing: 0_ann_4\.wav, 1_ann_4\.wav, "
        r"3_bob_0\.wav, 3_bob_1\.wav, 3_bob_2\.wav, and 1 more",
    ):
        read_digits(copy, SETTINGS)


def test_nothing_left_to_train_on_is_refused(copy):
    with pytest.raises(ValueError, match=r"20 of 20 pairs .* with n_validation 2 set aside"):
        read_digits(copy, SETTINGS, n_validation=2)
    with pytest.raises(ValueError, match="n_validation is -1"):
        read_digits(copy, SETTINGS, n_validation=-1)


def test_several_rates_and_short_or_broken_recordings_are_refused(copy):
    sound = tone(500, 4000, 16000, np.random.default_rng(0))
    broken = copy / "4_bob_6.wav"
    wavfile.write(broken, 16000, sound)
    with pytest.raises(ValueError, match=r"4_bob_6\.wav has 16000 samples a second, .* 8000"):
        read_digits(copy, SETTINGS)
    wavfile.write(broken, 8000, sound[:400])
    with pytest.raises(ValueError, match=r"4_bob_6\.wav gives 2 frames, and its 3 parts"):
        read_digits(copy, SETTINGS)
    broken.write_bytes(broken.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"4_bob_6\.wav: neither a whole WAV"):
        read_digits(copy, SETTINGS)
