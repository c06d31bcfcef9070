"""SmolLM2 and MiniLM on WordNet's glosses."""

from __future__ import annotations

import re
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from weightcast_lab.data.glosses import (
    Gloss,
    draw_glosses,
    read_glosses,
    split_glosses,
    token_windows,
)
from weightcast_lab.networks.pretrained.language import minilm, smollm2
from weightcast_lab.studies.real.task import Metrics, Task, equal_lengths

N_PROBE, N_PROBED, N_RANKED = 1_500, 1_000, 300


class LanguageModel(Task):
    """SmolLM2-135M-Instruct: how well it guesses the next token of glosses it did not see.

    Nats per token on 3,072 tokens tell how much of its knowledge of plain English is left, on
    definitions alone: not whether it follows instructions, knows facts or keeps a long thread. Its
    published weights have 4 bits in blocks of 32, so what int4 loses here says little
    about networks whose weights were not quantised before.
    """

    name, dataset = "SmolLM2-135M", "WordNet glosses, 6 x 512 tokens"

    def __init__(self) -> None:
        self.model, tokenizer = smollm2()
        self.model.config.use_cache = False  # pyright: ignore
        self.modules = [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and ".layers." in name
        ]
        self._encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        self._calibration, test = split_glosses(read_glosses())
        self._test = token_windows(test, self._encode, 6, 512, 0)

    def calibration(self, draw: int) -> list[Tensor]:
        """4,096 tokens: 8 windows of 512."""
        return list(token_windows(self._calibration, self._encode, 8, 512, draw).split(1))

    @torch.no_grad()
    def evaluate(self, model: Any) -> Metrics:
        """test_loss in nats per token; test_error: tokens that are not its first guess."""
        loss, wrong = 0.0, 0
        for window in self._test.split(1):
            logits, targets = model(window).logits[0, :-1], window[0, 1:]
            loss += float(F.cross_entropy(logits, targets)) / len(self._test)
            wrong += int((logits.argmax(1) != targets).sum())
        n = self._test[:, 1:].numel()
        return {"test_error": 100 * wrong / n, "test_loss": loss}


class SentenceEncoder(Task):
    """all-MiniLM-L6-v2: do sentences lie as they lay, and can their class still be read off?

    The first is the rank correlation of each of 300 test glosses' similarities with the 299 others,
    in the dense network and in this one: agreement with the dense network, whether that was right
    or not. The second is the error of a linear classifier of 45 WordNet classes that is trained
    anew on 1,500 glosses as this network sees them: what is lost only moved counts for nothing.
    """

    name, dataset = "MiniLM-L6", "WordNet glosses, 45 classes"

    def __init__(self) -> None:
        self.model, self._tokenizer = minilm()
        self.modules = [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and re.match(r"encoder\.layer\.", name)
        ]
        self._calibration, test = split_glosses(read_glosses())
        self._probe = draw_glosses(self._calibration, N_PROBE, 1_000)
        # Ranks are the dense network's, whatever becomes of its weights later.
        self._test = self._ranked(draw_glosses(test, N_PROBED, 0))
        self._validation = self._ranked(draw_glosses(self._calibration, N_PROBED, 2_000))

    def _batches(self, glosses: list[Gloss]) -> list[tuple[list[int], Tensor]]:
        tokens = self._tokenizer([gloss.text for gloss in glosses], truncation=True, max_length=64)
        return equal_lengths(tokens["input_ids"], 1_024)

    def calibration(self, draw: int) -> list[Tensor]:
        """512 glosses, about 10,000 tokens."""
        return [x for _, x in self._batches(draw_glosses(self._calibration, 512, draw))]

    @torch.no_grad()
    def _embed(self, model: Any, glosses: list[Gloss]) -> Tensor:
        found = torch.empty(len(glosses), 384)
        for places, tokens in self._batches(glosses):
            found[places] = F.normalize(model(tokens).last_hidden_state.mean(1))
        return found

    @staticmethod
    def _rank(embedded: Tensor) -> Tensor:
        """Each gloss' similarities with the others as standardised ranks (n, n - 1)."""
        n = len(embedded)
        others = (embedded @ embedded.mT)[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)
        ranks = torch.from_numpy(rankdata(others.numpy(), axis=1))
        return F.normalize(ranks - ranks.mean(1, keepdim=True))

    def evaluate(self, model: nn.Module) -> Metrics:
        """test_error: of the classifier; rank_disagreement: 1 less the mean rank correlation."""
        return self._measure(model, *self._test)

    @override
    def validate(self, model: nn.Module) -> Metrics:
        return self._measure(model, *self._validation)

    def _ranked(self, glosses: list[Gloss]) -> tuple[list[Gloss], Tensor]:
        """Glosses, and the ranks of the first of them as the network is now."""
        return glosses, self._rank(self._embed(self.model, glosses[:N_RANKED]))

    def _measure(self, model: nn.Module, glosses: list[Gloss], ranks: Tensor) -> Metrics:
        from sklearn.linear_model import LogisticRegression

        train, test = (self._embed(model, part) for part in (self._probe, glosses))
        probe = LogisticRegression(C=10.0, max_iter=200)
        probe.fit(train.numpy(), [gloss.label for gloss in self._probe])
        right = probe.score(test.numpy(), [gloss.label for gloss in glosses])
        agreement = float((self._rank(test[:N_RANKED]) * ranks).sum(1).mean())
        return {"test_error": 100 * (1 - right), "rank_disagreement": 1 - agreement}
