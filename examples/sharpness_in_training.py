"""Sharpness with respect to the scaled step, in units of the edge of stability 2/η."""

import os

import torch
from sklearn.datasets import load_digits

from scaled_sgd import HomogeneousMLP, ScaledSGD, feature_ranks, gradient_soft_ranks, sharpness

STEPS = int(os.environ.get("STEPS", "120"))
LR = 6.0

pixels, digits = load_digits(return_X_y=True)
x = torch.tensor(pixels, dtype=torch.float32)[:512]
x *= 8 / x.norm(dim=1, keepdim=True)
y = torch.tensor(digits)[:512]

model = HomogeneousMLP(64, 10, depth=5, base_width=8, activation="abs", seed=0)
optimizer = ScaledSGD(model, lr=LR, rule="norm")
for step in range(STEPS + 1):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    if step % 20 == 0:
        top = sharpness(model, x, y, loss="cross_entropy", scales="norm")
        soft = gradient_soft_ranks(model, x, y, loss="cross_entropy")
        print(
            f"step {step:3}: loss {loss:.3f}, edge ratio η λ/2 = {LR * top.values[0] / 2:.2f} "
            f"(converged: {top.converged}), soft ranks {[round(s, 1) for s in soft.tolist()]}"
        )
    optimizer.step()
print("first hidden layer:", feature_ranks(model.apply_activation(model.layers[0](x))))
