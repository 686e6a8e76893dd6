"""Modules, loggers and trainers of Lightning. Tests import this where they run: the library takes seconds to import."""

import lightning
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

import gramian
from gramian.integrations.lightning import OrthogonalityCallback
from tests.integrations.networks import STEPS, network, pairs

__all__ = [
    "Adversaries",
    "Classifier",
    "MixedPrecision",
    "OrthogonalityCallback",
    "Overflowing",
    "Recorder",
    "batches",
    "lightning",
    "trainer",
]


class Classifier(lightning.LightningModule):
    """Attached where its optimiser is made, where its training starts, or by a callback."""

    def __init__(self, where: str = "callback") -> None:
        super().__init__()
        self.network, self.where = network(), where

    def training_step(self, batch, index) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        if self.where == "optimizers":
            self.attachment = gramian.attach(optimizer, self, beta=50.0)
        return optimizer

    def on_fit_start(self) -> None:
        if self.where == "start":
            self.attachment = gramian.attach(self.optimizers(), self, beta=50.0)


class Overflowing(Classifier):
    """Two of its steps have an infinite gradient."""

    def on_after_backward(self) -> None:
        if self.trainer.fit_loop.batch_idx in (2, 3):
            self.network[0].weight.grad[0, 0] = float("inf")


class Adversaries(lightning.LightningModule):
    """Two networks with an optimiser each, and one more for their biases."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = network(), network()

    def training_step(self, batch, index) -> None:
        x, _ = batch
        for optimizer, net in zip(self.optimizers(), (self.generator, self.critic), strict=False):
            optimizer.zero_grad()
            self.manual_backward(net(x).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        weights = [[net[0].weight, net[2].weight] for net in (self.generator, self.critic)]
        biases = [parameter for name, parameter in self.named_parameters() if name.endswith("bias")]
        return [torch.optim.SGD(each, lr=0.01) for each in (*weights, biases)]


class Recorder(Logger):
    """Keeps what is logged."""

    name, version = "recorder", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics, step=None) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, *_, **__) -> None:
        pass


def trainer(folder, **options) -> lightning.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, enable_model_summary=False, **{**quiet, **options}
    )


def batches(count: int = STEPS) -> DataLoader:
    return DataLoader(pairs(8 * count), batch_size=8)
