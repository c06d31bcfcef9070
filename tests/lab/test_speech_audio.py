import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import wavfile

from tests.lab.speech_corpora import sphere
from weightcast_lab.data.speech import read_audio

SAMPLES = np.array([0, 1, -1, 2**14, -(2**15), 2**15 - 1], dtype=np.int16)


@pytest.fixture
def read(tmp_path):
    def write_and_read(data):
        path = tmp_path / "a.wav"
        path.write_bytes(data)
        return read_audio(path)

    return write_and_read


def wav(tmp_path, samples, rate=8000):
    wavfile.write(tmp_path / "b.wav", rate, samples)
    return (tmp_path / "b.wav").read_bytes()


def test_wav_and_both_byte_orders_of_sphere_give_the_same_samples(read, tmp_path):
    big = sphere(SAMPLES.astype(">i2"), 8000, sample_byte_format="-s2 10")
    for data in (wav(tmp_path, SAMPLES), sphere(SAMPLES.astype("<i2"), 8000), big):
        rate, samples = read(data)
        assert rate == 8000
        assert samples.dtype == np.float32
        assert samples.tolist() == (SAMPLES / 2**15).tolist()


def test_a_sphere_header_may_leave_out_what_has_a_default(read):
    data = sphere(SAMPLES, sample_coding="", sample_byte_format="")
    assert read(data)[1].tolist() == (SAMPLES / 2**15).tolist()


def test_other_chunks_of_a_wav_file_are_skipped(read, tmp_path):
    data = wav(tmp_path, SAMPLES) + b"junk\x04\x00\x00\x00abcd"
    assert len(read(data)[1]) == len(SAMPLES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sample_coding": "-s26 pcm,embedded-shorten-v2.00"}, "shorten-v2.00'.*sph2pipe"),
        ({"sample_coding": "-s4 ulaw"}, "coded as 'ulaw'"),
        ({"sample_n_bytes": "-i 1"}, "1 byte.*16-bit mono"),
        ({"channel_count": "-i 2"}, "in 2 channel"),
        ({"sample_byte_format": "-s1 1"}, "byte order '1'"),
        ({"sample_rate": ""}, "sample_rate is ''"),
        ({"sample_count": "-i minus"}, "sample_count is 'minus'"),
        ({"sample_count": "-i 7"}, "tells 7 samples, the file holds 6"),
    ],
)
def test_sphere_files_that_cannot_be_read_are_refused_with_a_remedy(read, fields, message):
    with pytest.raises(ValueError, match=rf"a\.wav: .*{message}"):
        read(sphere(SAMPLES, **fields))


@pytest.mark.parametrize("size", [7, 8, 20, 100])
def test_a_broken_sphere_header_is_refused(read, size):
    with pytest.raises(ValueError, match="SPHERE header is broken"):
        read(sphere(SAMPLES)[:size])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "neither"),
        (lambda data: b"no sound at all", "neither"),
        (lambda data: data[:20], "neither"),
        (lambda data: data[:-4], "neither a whole WAV"),
        (lambda data: data[:44], "neither a whole WAV|empty"),
    ],
)
def test_what_is_no_whole_wav_file_is_refused(read, tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"a\.wav: .*({message})"):
        read(change(wav(tmp_path, SAMPLES)))


def test_other_kinds_of_samples_are_refused_with_a_remedy(read, tmp_path):
    with pytest.raises(ValueError, match=r"int16 samples in 2 channel.*sox IN -b 16 -c 1"):
        read(wav(tmp_path, np.stack([SAMPLES, SAMPLES], axis=1)))
    with pytest.raises(ValueError, match="float32 samples in 1 channel"):
        read(wav(tmp_path, SAMPLES.astype(np.float32)))
    with pytest.raises(ValueError, match="empty"):
        read(wav(tmp_path, SAMPLES[:0]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the recording .*none\.wav: No such file"):
        read_audio(tmp_path / "none.wav")


RAMP = np.arange(100, dtype="<i2") - 50
FORMAT = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
NOTE = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"  # of an odd length, and so padded


def wav_of(*, riff=None, size=None, before=b"", after=b"", kept=None, form=FORMAT):
    samples = RAMP.tobytes()[:kept]
    body = b"WAVE" + form + before + b"data" + struct.pack("<I", 200 if size is None else size)
    body += samples + after
    return b"RIFF" + struct.pack("<I", len(body) if riff is None else riff) + body


LYING = {
    "true": {},
    "a pipe's": {"riff": 0xFFFFFFFF, "size": 0xFFFFFFFF},
    "a pipe's, RIFF alone": {"riff": 0xFFFFFFFF},
    "a pipe's, data alone": {"size": 0xFFFFFFFF},
    "a pipe's, behind a note": {"riff": 0xFFFFFFFF, "size": 0xFFFFFFFF, "before": NOTE},
    "sox's": {"riff": 0x7FFFFFFF, "size": 0x7FFFFFFF - 36},
    "none": {"riff": 0, "size": 0},
    "none, RIFF alone": {"riff": 0},
    "none, data alone": {"size": 0},
    "none of the samples": {"riff": 36, "size": 0},
    "RIFF too long": {"riff": 1000},
    "RIFF too short": {"riff": 50},
    "a note before": {"before": NOTE},
    "a note behind": {"after": NOTE},
    "a note behind that was cut": {"after": NOTE[:7]},
    "zeros behind": {"after": bytes(6)},
    "half a sample behind": {"size": 0xFFFFFFFF, "after": b"x"},
    "extensible": {
        "form": struct.pack("<4sIHHIIHHHHI", b"fmt ", 40, 0xFFFE, 1, 16000, 32000, 2, 16, 22, 16, 4)
        + bytes.fromhex("0100000000001000800000aa00389b71")
    },
}


@pytest.mark.parametrize("name", LYING)
def test_all_samples_are_read_whatever_lengths_the_header_tells(read, name):
    rate, samples = read(wav_of(**LYING[name]))
    assert rate == 16000
    assert (samples * 2**15).tolist() == RAMP.tolist()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"riff": 186, "kept": 150}, "its header tells 100 samples, the file holds 75"),
        ({"kept": 150}, "its header tells 100 samples, the file holds 75"),
        ({"kept": 199}, "its header tells 100 samples, the file holds 99"),
        ({"size": 1000}, "its header tells 500 samples, the file holds 100: .* --ignore-length"),
        ({"size": 0, "kept": 0}, "empty"),
        ({"size": 0, "kept": 0, "after": NOTE}, "empty"),
        ({"size": 0xFFFFFFFF, "kept": 0}, "empty"),
        ({"form": b""}, "neither a whole WAV"),
        ({"form": FORMAT[:12]}, "neither"),
    ],
)
def test_fewer_samples_than_a_header_tells_are_refused(read, how, message):
    with pytest.raises(ValueError, match=message):
        read(wav_of(**how))


@given(data=st.binary(max_size=80), place=st.integers(0, 60), change=st.binary(max_size=8))
def test_any_bytes_are_samples_or_refused_by_name(data, place, change, tmp_path_factory):
    whole = wav_of(after=data)
    file = tmp_path_factory.getbasetemp() / "any.wav"
    file.write_bytes(whole[:place] + change + whole[place + len(change) :])
    with contextlib.suppress(ValueError):
        rate, samples = read_audio(file)
        assert rate >= 0
        assert samples.dtype == np.float32
        assert np.abs(samples).max() <= 1
