"""The best learning rate of a narrow network is that of a wide one: νP with the rule norm."""

import os

import torch
from sklearn.datasets import load_digits

from scaled_sgd import HomogeneousMLP, ScaledSGD

STEPS = int(os.environ.get("STEPS", "60"))
WIDTHS = (4, 8, 16)
RATES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

pixels, digits = load_digits(return_X_y=True)
x = torch.tensor(pixels, dtype=torch.float32)[:512]
x *= 8 / x.norm(dim=1, keepdim=True)
y = torch.tensor(digits)[:512]


def final_loss(base_width, lr):
    model = HomogeneousMLP(64, 10, depth=4, base_width=base_width, activation="abs", seed=0)
    optimizer = ScaledSGD(model, lr=lr, rule="norm")
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / STEPS)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


print("lr      " + "".join(f"{lr:>9g}" for lr in RATES))
for base_width in WIDTHS:
    losses = [final_loss(base_width, lr) for lr in RATES]
    best = RATES[min(range(len(RATES)), key=losses.__getitem__)]
    print(f"m = {base_width:<4}" + "".join(f"{loss:9.4f}" for loss in losses) + f"   best {best:g}")
