"""Speech: a network that classifies frames, with error of frames and of whole recordings.

The shape of the paper's experiment on TIMIT: frames of features with their context, two hidden
layers of 1024 units, atoms from the covariance of the inputs and of the codes below, several
columns. On spoken digits it is a stand-in for it. References: Denil et al. 2013, the
experiment on TIMIT.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from weightcast.cli.result_rows import row_counts
from weightcast.layers.counts import ledger
from weightcast.plan.plan import Plan
from weightcast.transform.convert import convert
from weightcast.transform.pretrain import pretrain
from weightcast_lab.data.speech import (
    Bigram,
    Corpus,
    digit_error,
    phone_error,
    read_digits,
    read_timit,
    to_images,
)
from weightcast_lab.data.speech.scoring import choose_change, folded_frame_error
from weightcast_lab.studies.sources import find_source
from weightcast_lab.studies.speech_config import SpeechConfig
from weightcast_lab.studies.speech_trials import trials
from weightcast_lab.sweeps.rows import Row, make_row
from weightcast_lab.sweeps.trial import Place, runs_trials
from weightcast_lab.training import FitResult, Images, fit, mlp

__all__ = ["SpeechConfig", "build_model", "log_posteriors", "read_corpus", "run", "trials"]


@runs_trials("speech", SpeechConfig)
def run(config: SpeechConfig, place: Place) -> Row:
    """Train one network and measure the errors of frames and of recordings.

    Args:
        config: the run.
        place: ``data`` is the folder with the recordings, or fsdd=FOLDER, or timit=FOLDER.

    Returns:
        A row; metrics are test_error and frame_error in percent of the frames, digit_error of the
        recordings or phone_error of the phones, train_loss, train_seconds.

    Raises:
        ValueError: no data, bad data, a plan that does not fit, or a loss that is no number.
    """
    folder = None if place.data is None else find_source(place.data, config.data)
    corpus = read_corpus(config, folder)
    images = to_images(corpus, config.context)
    model = build_model(config, images)
    result = fit(
        model,
        images,
        config.training,
        seed=config.seed,
        progress=False,
        accelerator=place.accelerator,
    )
    counts = row_counts(ledger(model, batch=config.training.batch_size))
    sizes = {
        "train_recordings": len(corpus.train),
        "test_recordings": len(corpus.test),
        "train_frames": len(images.train[1]),
        "test_frames": len(images.test[1]),
    }
    row = make_row(
        experiment=config.experiment,
        variant=config.variant or "speech",
        dataset=corpus.name,
        seed=config.seed,
        config=config.to_dict(),
        counts=counts | sizes,
        metrics=_metrics(config, corpus, images, model, result),
    )
    return row | {"labels": config.labels}


def read_corpus(config: SpeechConfig, folder: str | None) -> Corpus:
    """The config's recordings from the folder that holds them.

    Raises:
        ValueError: no folder, or what the corpus's reader refuses.
    """
    if folder is None:
        what = {
            "fsdd": "the folder that holds recordings/ of the Free Spoken Digit Dataset "
            "(github.com/Jakobovski/free-spoken-digit-dataset)",
            "timit": "the folder of LDC93S1 that holds TRAIN and TEST",
        }[config.corpus]
        raise ValueError(f"no recordings come with weightcast: give with --data {what}")
    if config.corpus == "timit":
        return read_timit(
            folder,
            config.features,
            test_set=config.test_set,
            n_validation=config.n_validation,
            max_recordings=config.max_recordings,
        )
    return read_digits(
        folder,
        config.features,
        n_validation=config.n_validation,
        max_recordings=config.max_recordings,
    )


def build_model(config: SpeechConfig, images: Images) -> nn.Module:
    """The config's network: weights drawn, plan carried out, pre-trained where it says so.

    Args:
        config: the run.
        images: frames with context; dictionaries are made from the training split.

    Raises:
        ValueError: a plan that does not fit the network.
    """
    model: nn.Module = mlp(
        images.shape, images.n_classes, config.hidden, config.activation, seed=config.seed
    )
    x, _ = images.train
    if config.plan is not None:
        # Spread over all recordings, which are sorted.
        chosen = torch.linspace(0, len(x) - 1, min(config.n_inputs, len(x))).long()
        inputs = x[chosen].split(500)
        model = convert(model, Plan.from_dict(config.plan), inputs=inputs, seed=config.seed)
    if config.pretraining is not None:
        pretrain(
            model,
            x.split(500),
            layers=[f"hidden{i + 1}" for i in range(len(config.hidden))],
            seed=config.seed,
            progress=False,
            **dataclasses.asdict(config.pretraining),
        )
    return model


@torch.no_grad()
def log_posteriors(model: nn.Module, x: Tensor, batch_size: int = 1000) -> np.ndarray:
    """log P(class | frame and its context), (n_frames, n_classes) float64.

    Args:
        model: on the CPU; measured in evaluation mode, its mode restored afterwards.
        x: (n_frames, 1, height, width) frames with context.
        batch_size: frames at a time.
    """
    training = model.training
    model.eval()
    logits = torch.cat([model(batch) for batch in x.split(batch_size)])
    model.train(training)
    return logits.double().log_softmax(dim=1).numpy()


def _metrics(
    config: SpeechConfig, corpus: Corpus, images: Images, model: nn.Module, result: FitResult
) -> dict[str, float | None]:
    metrics = {
        "test_error": result.test_error,
        "frame_error": result.test_error,
        "validation_error": result.validation_error,
        "train_loss": result.train_loss,
        "train_seconds": result.train_seconds,
    }
    # Scaled likelihoods: log p(frame | class), but for a constant that all classes share.
    test = log_posteriors(model, images.test[0]) - corpus.log_priors()
    validation = None
    if images.validation is not None:
        validation = log_posteriors(model, images.validation[0]) - corpus.log_priors()
    if config.corpus == "fsdd":
        metrics["digit_error"] = digit_error(corpus.test, test)
        if validation is not None:
            metrics["validation_digit_error"] = digit_error(corpus.validation, validation)
        return metrics
    bigram = Bigram.count((r.transcript for r in corpus.train), len(corpus.classes))
    change = config.change
    if change is None:
        assert validation is not None, "the config has validation speakers where it has no change"
        change = choose_change(corpus, validation, bigram)
    answers = (test + corpus.log_priors()).argmax(axis=1)
    metrics["frame_error_39"] = folded_frame_error(images.test[1].numpy(), answers)
    metrics["phone_error"] = phone_error(corpus.test, test, bigram, change)
    metrics["change"] = change
    return metrics
