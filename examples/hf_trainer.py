"""Depthwise scaling under the Hugging Face trainer (pip install transformers)."""

import os
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import Trainer, TrainingArguments

from scaled_sgd import DepthwiseScaling, HomogeneousMLP

EPOCHS = float(os.environ.get("EPOCHS", "20"))


class Classifier(nn.Module):
    """A model in the form that the trainer expects: it returns its loss."""

    def __init__(self):
        super().__init__()
        self.network = HomogeneousMLP(64, 10, depth=5, base_width=12, activation="abs", seed=0)

    def forward(self, pixels, labels):
        x = 8 * nn.functional.normalize(pixels, dim=1)
        logits = self.network(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


pixels, digits = load_digits(return_X_y=True)
data = [{"pixels": row, "labels": digit} for row, digit in zip(pixels.astype("float32"), digits, strict=True)]

model = Classifier()
optimizer = torch.optim.SGD(model.parameters(), lr=4.0, momentum=0.5)
scaling = DepthwiseScaling(model, optimizer, rule="norm")
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=128,
        dataloader_drop_last=True,
        max_grad_norm=0,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, optimizers=(optimizer, schedule))
    print(trainer.train().training_loss, [round(xi, 2) for xi in scaling.scales.tolist()])
