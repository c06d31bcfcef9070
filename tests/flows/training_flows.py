"""Lightning, and features of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import weightcast as wc
from tests.flows.examples import classifier, digits
from tests.flows.flow import flow

PLAN = {"*": wc.Rule(wc.dictionaries.DCT(), 0.25)}


@flow("Lightning's own ModelCheckpoint: resume bit-equal, load_from_checkpoint",
      "pytorch-lightning")  # fmt: skip
def lightning(folder: Path) -> None:
    class Digits(pl.LightningModule):
        def __init__(self, seed: int = 0) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.network = wc.convert(classifier(), PLAN, seed=seed)

        def training_step(self, batch, _):
            images, labels = batch
            return nn.functional.cross_entropy(self.network(images), labels)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-3)

    loader = DataLoader(TensorDataset(*digits()), batch_size=256)

    def fit(module: Digits, epochs: int, ckpt_path: Path | None = None) -> Digits:
        keep = ModelCheckpoint(folder, save_last=True)
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", callbacks=[keep], logger=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader, ckpt_path=ckpt_path)
        return module

    whole = fit(Digits(), 2)
    fit(Digits(), 1)
    resumed = fit(Digits(seed=1), 2, folder / "last.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    loaded = Digits.load_from_checkpoint(folder / "last.ckpt", seed=2)
    images, _ = digits()
    assert torch.equal(loaded.network(images), whole.network(images))


@flow("Lightning trains an adapted network, resumes bit-equal; what it adds is saved alone",
      "pytorch-lightning")  # fmt: skip
def adapted_in_lightning(folder: Path) -> None:
    images, labels = digits()
    torch.manual_seed(0)
    pretrained = classifier()
    plan = wc.suggest(pretrained, learned=600, purpose="adapt", inputs=[images[:256]])

    class Adapted(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = wc.adapt(pretrained, plan, inputs=[images[:256]], heads=["5"])

        def training_step(self, batch, _):
            images, labels = batch
            return nn.functional.cross_entropy(self.network(images), labels)

        def configure_optimizers(self):
            return torch.optim.AdamW(wc.parameter_groups(self.network, 1e-2))

    loader = DataLoader(TensorDataset(images, labels), batch_size=256)

    def fit(epochs: int, ckpt_path: Path | None = None) -> nn.Module:
        module = Adapted()
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[ModelCheckpoint(folder, save_last=True)],
        )  # fmt: skip
        trainer.fit(module, loader, ckpt_path=ckpt_path)
        return module.network.eval()

    whole = fit(2)
    fit(1)
    resumed = fit(2, folder / "last.ckpt")
    with torch.no_grad():
        expected = whole(images)
        assert torch.equal(resumed(images), expected)
        assert not torch.equal(pretrained(images), expected)
        wc.save(whole, folder / "adapter")
        assert torch.equal(wc.load(folder / "adapter", pretrained)(images), expected)


@flow(
    "scikit-learn: a fitted estimator as a dictionary; a trained network's features in a pipeline",
    "scikit-learn",
)
def estimators(folder: Path) -> None:
    images, labels = digits()
    pca = PCA(48).fit(images[:1000].flatten(1).numpy())
    rule = wc.Rule(wc.dictionaries.FromEstimator(pca, selection="leading"), 0.5)
    torch.manual_seed(0)
    model = wc.convert(classifier(), {"1": rule})
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images[:1000]), labels[:1000]).backward()
        optimiser.step()
    wc.save(model, folder / "model")
    loaded = wc.load(folder / "model", classifier()).requires_grad_(False)
    features = FunctionTransformer(lambda x: loaded[:3](torch.from_numpy(x)).numpy())
    regression = make_pipeline(features, StandardScaler(), LogisticRegression(max_iter=1000))
    regression.fit(images[:1000].numpy(), labels[:1000])
    assert regression.score(images[1000:].numpy(), labels[1000:]) > 0.9
