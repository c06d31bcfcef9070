"""Tasks compare with the dense network, whatever becomes of its weights."""

import torch

from tests.small_minilm import small_minilm
from weightcast_lab.data.glosses import Gloss
from weightcast_lab.studies.real import language_tasks


def test_ranks_are_the_dense_networks_though_its_weights_were_replaced(monkeypatch):
    glosses = [Gloss(f"{n} {'ab'[n % 2]}", n % 2) for n in range(60)]
    monkeypatch.setattr(language_tasks, "minilm", small_minilm)
    monkeypatch.setattr(language_tasks, "read_glosses", lambda: glosses)
    monkeypatch.setattr(language_tasks, "split_glosses", lambda found: (found[:40], found[40:]))
    for name, value in {"N_PROBE": 20, "N_PROBED": 15, "N_RANKED": 10}.items():
        monkeypatch.setattr(language_tasks, name, value)
    task = language_tasks.SentenceEncoder()
    for measure in (task.evaluate, task.validate):
        assert abs(measure(task.model)["rank_disagreement"]) < 1e-6
    with torch.no_grad():  # as the peers' matrices are put in their places
        task.model.encoder.layer[0].attention.self.value.weight.mul_(-3)
    for measure in (task.evaluate, task.validate):
        assert measure(task.model)["rank_disagreement"] > 1e-4
