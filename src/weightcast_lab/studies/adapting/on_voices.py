"""Resemblyzer's LSTM, trained to tell voices apart, learns which digit is said.

    python -m weightcast_lab.studies.evidence --minutes 60 --data fsdd=FSDD
    python -m weightcast_lab.studies.adapting.on_voices --table

Who speaks is no task here: a head alone tells the six speakers of the Free Spoken Digit Dataset
without an error, and the digits of speakers whom it was trained on but for one in 150. So
recordings are parted by speaker: with seed s the s-th of five is tested, and the other four are
trained on; the sixth chooses the rates, and is never tested. The spread over seeds is that over
speakers. The LSTM's mean over time goes to the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import weightcast as wc
from weightcast_lab.data.speech.digits import Voice, read_voices
from weightcast_lab.networks.pretrained import voices
from weightcast_lab.studies.adapting.methods import (
    FULL,
    HEAD,
    LORA,
    OURS,
    RANDOM,
    RATES,
    RELATIVE,
    WHITENED,
    Method,
    full,
    head,
    ours,
    pefts,
)
from weightcast_lab.studies.adapting.trained import (
    Classifier,
    RunConfig,
    Task,
    drawn,
    print_table,
    runs_task,
    whole,
)
from weightcast_lab.studies.real.audio_tasks import resampled
from weightcast_lab.studies.sources import find_source
from weightcast_lab.sweeps.trial import Place

N_FRAMES, N_INPUTS = 64, 512
SIZES = (37_320, 74_640)
"""LoRA's counts at ranks 5 and 10; ours, of 6 and 12 atoms, are 1.2 % below."""

_MATRICES = [f"lstm.weight_{kind}_l{layer}" for layer in range(3) for kind in ("ih", "hh")]
_ATOMS: dict[int | None, int] = dict(zip(SIZES, (6, 12), strict=True))
_SMALL = (0.0005, 0.001, 0.002, 0.004)
"""What V adds acts at each of 64 steps: at 0.0075 the LSTM forgets all that it knew."""

METHODS: dict[str, Method] = {
    OURS: Method(_ATOMS, _SMALL, ours(WHITENED, 16, "lstm.*")),
    RELATIVE: Method(_ATOMS, RATES, ours(wc.dictionaries.DCT(), 1, "lstm.*", relative=True)),
    RANDOM: Method(_ATOMS, _SMALL, ours(wc.dictionaries.RandomGaussian(), 16, "lstm.*")),
    LORA: Method(
        dict(zip(SIZES, ({"r": 5}, {"r": 10}), strict=True)), RATES,
        pefts("LoraConfig", target_modules=[], target_parameters=_MATRICES),
    ),
    FULL: Method({None: None}, (0.0005, 0.001, 0.0025, 0.005), full),
    HEAD: Method({None: None}, (), head),
}  # fmt: skip
"""PEFT refuses the LSTM as a module; LoRA takes its matrices where each is named as a parameter."""


@dataclass(frozen=True)
class VoicesConfig(RunConfig):
    """One run, of 32 recordings a step."""

    methods: ClassVar[Mapping[str, Method]] = METHODS
    head_rate: ClassVar[float] = 0.2
    """Of 0.005 to 0.2 the best by validation, head only: the LSTM's states are small."""

    data: str = "fsdd"


class States(nn.Module):
    """An LSTM's last layer, its mean over time."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, mels: Tensor) -> Tensor:
        """Mel powers (n, n_frames, 40) to (n, 256)."""
        return self.lstm(mels)[0].mean(1)


@runs_task("adapt-voices", VoicesConfig)
def task(config: VoicesConfig, place: Place, *, validation: bool = False) -> Task:
    """The speakers of a run."""
    found = read_voices(find_source(place.data, config.data), range(50))
    *tested, chooses = sorted({voice.speaker for voice in found})
    left_out = tested[config.seed % len(tested)]
    measured = chooses if validation else left_out
    train = _mels([voice for voice in found if voice.speaker not in (left_out, chooses)])
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(config.seed))
    return Task(
        dataset="FSDD, which digit, parted by speaker",
        encoder=States(voices.resemblyzer().lstm),
        classify=lambda adapted: Classifier(adapted, 256, 10, config.seed),
        examples=list(train[0][order[:N_INPUTS]].split(64)),
        batches=drawn(*train, config),
        measured=whole(*_mels([voice for voice in found if voice.speaker == measured])),
    )


def _mels(found: list[Voice]) -> tuple[Tensor, Tensor]:
    """Mel powers (n, N_FRAMES, 40) of recordings that end with the last frame, and digits (n,)."""
    n = N_FRAMES * voices.HOP
    signals = [resampled(voice)[:n] for voice in found]
    padded = [np.pad(signal, (n - len(signal), 0)) for signal in signals]
    mels = torch.stack([voices.mel_powers(signal)[:N_FRAMES] for signal in padded])
    return mels, torch.tensor([voice.digit for voice in found])


def main() -> None:
    """Print the rows as a table."""
    print_table(__doc__, METHODS, "results/evidence_adapt_voices.ndjson")


if __name__ == "__main__":
    main()
