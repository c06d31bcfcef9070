import copy
import csv
import random
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weightcast as wc
from weightcast_lab.training import (
    Batches,
    Classifier,
    Interrupted,
    SafetensorsCheckpointIO,
    TrainingSettings,
    fit,
    load_images,
    measure_error,
    mlp,
)

SETTINGS = TrainingSettings(epochs=3, batch_size=20, learning_rate=5e-3)
RULE = wc.Rule(wc.dictionaries.Kernel(), 0.1, columns=4, grid=(28, 28))


@pytest.fixture(scope="module")
def images():
    """590 training images: 30 batches, the last of 10, in four lists of 8, 8, 8 and 6."""
    full = load_images("digits", n_validation=100)
    x, y = full.train
    test = full.test[0][:200], full.test[1][:200]
    return replace(full, train=(x[:590], y[:590]), test=test)


def make_model(predicted=False):
    model = mlp(hidden=(30,), seed=0)
    return wc.convert(model, {"hidden1": RULE}) if predicted else model


def train(model, images, settings=SETTINGS, **options):
    return fit(model, images, settings, accelerator="cpu", **({"progress": False} | options))


def assert_equal_weights(a, b):
    for (name, p), q in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize("schedule", ["one-cycle", "constant"])
def test_fit_is_the_plain_loop(images, predicted, schedule):
    settings = replace(
        SETTINGS, schedule=schedule, label_smoothing=0.1, learning_rate_V=SETTINGS.learning_rate
    )
    model = make_model(predicted)
    plain = copy.deepcopy(model)
    result = train(model, images, settings, seed=4)

    optimiser = torch.optim.AdamW(plain.parameters(), lr=5e-3, weight_decay=0.01, fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=90)
    batches = Batches(images.train, 20, seed=4)
    for epoch in range(3):
        batches.set_epoch(epoch)
        losses = []
        for x, y in (pair for several in batches for pair in several):
            optimiser.zero_grad()
            loss = F.cross_entropy(plain(x), y, label_smoothing=0.1)
            loss.backward()
            if schedule == "constant":
                optimiser.param_groups[0] |= {"lr": 5e-3, "betas": (0.9, 0.999)}
            optimiser.step()
            cycle.step()
            losses.append(float(loss.detach()))
    assert_equal_weights(model, plain)
    assert result.train_loss == pytest.approx(sum(losses) / 30, rel=1e-5)
    assert result.test_error == measure_error(plain, images.test)
    assert result.validation_error == measure_error(plain, images.validation)
    assert (result.epochs, result.steps) == (3, 90)


def test_training_learns(images):
    untrained = measure_error(make_model(), images.test)
    result = train(make_model(), images)
    assert result.test_error < 25 < untrained
    assert result.train_seconds > 0


def test_the_same_seed_gives_the_same_weights_and_leaves_randomness_alone(
    images, unmoved_randomness
):
    models = [make_model() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, images, replace(SETTINGS, epochs=1), seed=seed)
    assert_equal_weights(models[0], models[1])
    assert not torch.equal(models[0].classifier.weight, models[2].classifier.weight)


def test_the_error_is_counted_in_percent_and_the_mode_is_restored(images):
    model = make_model().train()
    x, y = images.test
    wrong = int((model(x).argmax(dim=1) != y).sum())
    assert measure_error(model, images.test, batch_size=64) == 100 * wrong / 200
    assert model.training


def test_sgd_has_its_own_momentum(images):
    settings = replace(SETTINGS, optimiser="sgd", schedule="constant", learning_rate=0.1)
    [optimiser] = [Classifier(make_model(), settings, 30).configure_optimizers()]
    assert optimiser.defaults["momentum"] == 0.7
    assert train(make_model(), images, settings).test_error < 50


def test_v_has_its_own_learning_rate():
    model = make_model(predicted=True)

    def rates(rate_V):
        settings = replace(SETTINGS, learning_rate_V=rate_V, schedule="constant")
        groups = Classifier(model, settings, 30).configure_optimizers().param_groups
        every = {id(p): group["lr"] for group in groups for p in group["params"]}
        assert len(every) == len(list(model.parameters()))
        return every.pop(id(model.hidden1.V)), set(every.values())

    assert rates(0.5) == (0.5, {5e-3})
    scaled = wc.parameter_groups(model, 5e-3)[-1]["lr"]
    assert rates(None) == (scaled, {5e-3})
    assert scaled != 5e-3


def test_without_a_folder_nothing_is_written(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(make_model(), images, replace(SETTINGS, epochs=1))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_gets_logs_and_the_last_and_the_best_checkpoint(images, tmp_path):
    model = make_model()
    train(model, images, folder=tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["30", "60", "90"]
    assert {"epoch", "train_loss", "learning_rate", "validation_error"} < set(lines[0])
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    last = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")["state_dict"]
    assert torch.equal(last["model.hidden1.weight"], model.hidden1.weight)
    errors = [float(line["validation_error"]) for line in lines]
    best = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "best.ckpt")
    assert best["epoch"] == errors.index(min(errors))


def test_the_best_weights_are_chosen_on_the_validation_images(images, tmp_path):
    # A learning rate this high, held to the end, makes the last epoch a matter of luck.
    settings = replace(
        SETTINGS, epochs=8, schedule="constant", learning_rate=0.05, test_weights="best"
    )
    model = make_model()
    result = train(model, images, settings, folder=tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        errors = [float(line["validation_error"]) for line in csv.DictReader(file)]
    assert min(errors) < errors[-1]  # or this test tests nothing
    assert measure_error(model, images.validation) == min(errors)
    assert result.test_error == measure_error(model, images.test)


def interrupt_at(model, n_calls):
    """Press Ctrl-C in the training step of this number."""
    calls = iter(range(1, 10**6))

    def press(module, _inputs):
        if module.training and next(calls) == n_calls:
            signal.raise_signal(signal.SIGINT)

    model.register_forward_pre_hook(press)
    return model


@pytest.mark.parametrize("predicted", [False, True])
@pytest.mark.parametrize(
    ("n_calls", "message"),
    [
        (5, "stopped in epoch 1 of 3"),
        (30, "stopped in epoch 2 of 3"),  # at an epoch's last step the epoch is finished
        (47, "stopped in epoch 2 of 3"),
        (77, "stopped in epoch 3 of 3"),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    images, tmp_path, n_calls, message, predicted
):
    whole = make_model(predicted)
    expected = train(whole, images, folder=tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=message):
        train(interrupt_at(make_model(predicted), n_calls), images, folder=tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = make_model(predicted)
    result = train(resumed, images, folder=tmp_path / "cut", resume=True)
    assert_equal_weights(resumed, whole)
    assert replace(result, train_seconds=0.0) == replace(expected, train_seconds=0.0)


class Drawing(nn.Module):
    """A network with dropout that uses the other two sources of random numbers as well."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(make_model(), nn.Dropout(0.3))

    def forward(self, x):
        noise = random.random() + np.random.rand() if self.training else 0.0
        return self.network(x + 0.1 * noise)


@pytest.mark.parametrize("n_calls", [30, 47])  # between two epochs, and within one
def test_a_model_that_draws_draws_the_same_when_resumed(
    images, tmp_path, n_calls, unmoved_randomness
):
    whole = Drawing()
    expected = train(whole, images, folder=tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(interrupt_at(Drawing(), n_calls), images, folder=tmp_path / "cut")
    resumed = Drawing()
    result = train(resumed, images, folder=tmp_path / "cut", resume=True)
    assert_equal_weights(resumed, whole)
    assert replace(result, train_seconds=0.0) == replace(expected, train_seconds=0.0)
    files = [tmp_path / name / "metrics.csv" for name in ("whole", "cut")]
    assert files[0].read_text() == files[1].read_text()


def test_workers_put_the_same_batches_together(images, unmoved_randomness):
    models = [make_model() for _ in range(2)]
    for model, workers in zip(models, (0, 2), strict=True):
        train(model, images, replace(SETTINGS, epochs=2), workers=workers)
    assert_equal_weights(*models)


def test_processes_share_every_batch(images):
    whole = Batches(images.train, 20, seed=4)
    shares = [Batches(images.train, 20, seed=4, rank=rank, processes=3) for rank in range(3)]
    assert [len(share) for share in shares] == [len(whole)] * 3
    for batches in zip(whole, *shares, strict=True):
        for (x, y), *parts in zip(*batches, strict=True):
            rows = torch.stack([p for p, _ in parts], dim=1).flatten(0, 1)  # dealt out in turn
            labels = torch.stack([q for _, q in parts], dim=1).flatten()
            # 20 images for 3 processes, and 10 at the end: filled up with the first ones.
            assert len(rows) == {20: 21, 10: 12}[len(x)]
            assert torch.equal(rows, torch.cat([x, x])[: len(rows)])
            assert torch.equal(labels, torch.cat([y, y])[: len(rows)])


def test_a_checkpoint_of_another_number_of_processes_is_refused(images, tmp_path):
    with pytest.raises(Interrupted):
        train(interrupt_at(make_model(), 47), images, folder=tmp_path)
    checkpoint = SafetensorsCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    states = checkpoint["random_state"]
    checkpoint["random_state"] = {name: torch.cat([s, s]) for name, s in states.items()}
    SafetensorsCheckpointIO().save_checkpoint(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="written by 2 processes and this run has 1: resume it"):
        train(make_model(), images, folder=tmp_path, resume=True)


@pytest.mark.parametrize(("workers", "processes"), [(-1, 1), (0, 0)])
def test_impossible_numbers_of_processes_are_refused(images, workers, processes):
    with pytest.raises(ValueError, match=f"workers is {workers} and processes is {processes}"):
        train(make_model(), images, workers=workers, processes=processes)


def test_a_stop_in_the_last_step_lets_the_run_finish(images):
    assert train(interrupt_at(make_model(), 90), images).epochs == 3


def test_a_finished_run_that_is_resumed_is_only_measured(images, tmp_path):
    model = make_model()
    result = train(model, images, folder=tmp_path)
    resumed = make_model()
    assert train(resumed, images, folder=tmp_path, resume=True) == result
    assert_equal_weights(resumed, model)


def test_without_a_folder_ctrl_c_is_a_keyboard_interrupt(images):
    with pytest.raises(KeyboardInterrupt):
        train(interrupt_at(make_model(), 5), images)


def test_a_second_ctrl_c_stops_at_once(images, tmp_path):
    model = interrupt_at(interrupt_at(make_model(), 3), 4)  # both in the first list of batches
    with pytest.raises(KeyboardInterrupt) as stop:
        train(model, images, folder=tmp_path)
    assert not isinstance(stop.value, Interrupted)
    assert not (tmp_path / "last.ckpt").exists()


def test_training_runs_in_a_thread_where_signals_are_not_heard(images):
    results = []
    settings = replace(SETTINGS, epochs=1)
    thread = threading.Thread(target=lambda: results.append(train(make_model(), images, settings)))
    thread.start()
    thread.join()
    assert len(results) == 1


def test_a_loss_that_is_no_number_names_the_learning_rate(images):
    settings = replace(SETTINGS, optimiser="sgd", learning_rate=1e30)
    with pytest.raises(ValueError, match=r"the loss of epoch 1 is nan: .*learning_rate is 1e\+30"):
        train(make_model(), images, settings)


def test_what_cannot_be_resumed_is_refused(images, tmp_path):
    with pytest.raises(ValueError, match=r"there is no last\.ckpt in"):
        train(make_model(), images, folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"there is no last\.ckpt in"):
        train(make_model(), images, resume=True)


def test_the_best_weights_need_validation_images_and_a_folder(images, tmp_path):
    settings = replace(SETTINGS, test_weights="best")
    for options in ({"folder": None}, {"folder": tmp_path}):
        with pytest.raises(ValueError, match="'best' needs a validation split and a folder"):
            train(make_model(), replace(images, validation=None), settings, **options)


def test_progress_is_a_line_per_epoch_in_a_log(images, capsys):
    train(make_model(), images, replace(SETTINGS, epochs=2), progress=True, label="mine")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("mine: epoch 2 of 2, loss ")
    assert "validation error" in lines[1]


def test_progress_is_a_bar_on_a_terminal(images, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    train(make_model(), images, replace(SETTINGS, epochs=2), progress=True, label="mine")
    last = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("mine 100% |")
    assert "epoch 2 of 2" in last
