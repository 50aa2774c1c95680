"""Depthwise scaling under Lightning's trainer (pip install lightning)."""

import os

import lightning
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from scaled_sgd import DepthwiseScaling, HomogeneousMLP

EPOCHS = int(os.environ.get("EPOCHS", "20"))


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = HomogeneousMLP(64, 10, depth=5, base_width=12, activation="abs", seed=0)

    def training_step(self, batch, _):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.network(x), y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.network.parameters(), lr=4.0, momentum=0.5)
        self.scaling = DepthwiseScaling(self.network, optimizer, rule="norm")
        return optimizer

    def on_train_epoch_end(self):
        self.log_dict({f"scales/{k}": xi for k, xi in enumerate(self.scaling.scales, start=1)})


pixels, digits = load_digits(return_X_y=True)
x = torch.tensor(pixels, dtype=torch.float32)
x *= 8 / x.norm(dim=1, keepdim=True)
data = DataLoader(TensorDataset(x, torch.tensor(digits)), batch_size=128, shuffle=True, drop_last=True)

trainer = lightning.Trainer(
    max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, log_every_n_steps=5
)
trainer.fit(Digits(), data)
print({name: round(value.item(), 3) for name, value in trainer.callback_metrics.items()})
