"""Depthwise scaling of a module of your own, with any torch.optim optimizer."""

import os

import torch
from torch import nn

from scaled_sgd import DepthwiseScaling

STEPS = int(os.environ.get("STEPS", "100"))
WIDTH = int(os.environ.get("WIDTH", "64"))


class Pooled(nn.Module):
    """Tokens to features, their mean to classes; each nn.Linear is used once, in order."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(16, WIDTH, bias=False)
        self.mix = nn.Linear(WIDTH, WIDTH, bias=False)
        self.classify = nn.Linear(WIDTH, 4)

    def forward(self, tokens):
        h = torch.relu(self.embed(tokens))
        return self.classify(torch.relu(self.mix(h)).mean(dim=1))


torch.manual_seed(0)
model = Pooled()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4)
scaling = DepthwiseScaling(model, optimizer, rule="norm")

tokens = torch.randn(512, 12, 16)
labels = tokens.mean(dim=1)[:, :4].argmax(dim=1)
for _ in range(STEPS):
    optimizer.zero_grad()
    for rows, targets in zip(tokens.chunk(2), labels.chunk(2), strict=True):  # accumulation works as usual
        (nn.functional.cross_entropy(model(rows), targets) / 2).backward()
    optimizer.step()
with torch.no_grad():
    loss = nn.functional.cross_entropy(model(tokens), labels)
print(f"loss {loss:.3f} (ln 4 = 1.386), scales {[round(xi, 3) for xi in scaling.scales.tolist()]}")
