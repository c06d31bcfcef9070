"""pretrain: one layer after the other as an autoencoder of its inputs."""

from weightcast.transform.pretrain.greedy import PretrainedLayer, pretrain

__all__ = ["PretrainedLayer", "pretrain"]
