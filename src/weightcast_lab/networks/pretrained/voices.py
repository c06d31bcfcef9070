"""Resemblyzer: who speaks? Three LSTM layers and a linear one (GE2E, Wan et al. 2018).

Written from the paper and the shapes of the weights: mel powers of 160 frames in, the last hidden
state of the last layer through a linear layer and ReLU, length one, out.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightcast_lab.packages import Package

RESEMBLYZER = Package(
    "resemblyzer", "0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f"
)
RATE, N_MELS, WINDOW, HOP, N_FRAMES = 16_000, 40, 400, 160, 160
LOUDNESS = -30.0
"""Decibels below full scale to which quieter utterances are raised."""


class VoiceEncoder(nn.Module):
    """Mel powers (n, n_frames, 40) to a voice's direction (n, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(N_MELS, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Unit vectors: the cosine of two tells how alike the voices are."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(self.linear(hidden[-1]).relu())


def resemblyzer() -> VoiceEncoder:
    """The voice encoder with Resemblyzer's weights."""
    file = RESEMBLYZER.fetch() / "resemblyzer" / "pretrained.pt"
    state = torch.load(file, map_location="cpu", weights_only=True)["model_state"]
    model = VoiceEncoder()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model.eval()


def mel_powers(signal: np.ndarray) -> Tensor:
    """What it is given of 1.6 s or more at 16 kHz: (160, 40), powers, no logarithm."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(
        WINDOW // 2 + 1, N_MELS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney"
    )
    loudness = 10 * np.log10(np.mean(signal**2))
    louder = signal * 10 ** (max(LOUDNESS - loudness, 0.0) / 20)
    mels = spectrogram(
        louder,
        window_function(WINDOW, "hann"),
        WINDOW,
        HOP,
        power=2.0,
        pad_mode="constant",
        mel_filters=filters,
        mel_floor=0.0,
    )
    return torch.from_numpy(np.ascontiguousarray(mels.T[:N_FRAMES])).float()
