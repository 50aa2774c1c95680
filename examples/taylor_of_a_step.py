"""Taylor coefficients c0..c3 of the loss along a step say what the step will do."""

import os

import torch
from sklearn.datasets import load_digits

from scaled_sgd import HomogeneousMLP, ScaledSGD, taylor_coefficients

STEPS = int(os.environ.get("STEPS", "60"))
LR = 4.0

pixels, digits = load_digits(return_X_y=True)
x = torch.tensor(pixels, dtype=torch.float32)[:512]
x *= 8 / x.norm(dim=1, keepdim=True)
y = torch.tensor(digits)[:512]

model = HomogeneousMLP(64, 10, depth=5, base_width=12, activation="abs", seed=0)
optimizer = ScaledSGD(model, lr=LR, rule="norm")
print("step    loss  predicted  measured  η c2/|c1|")
for step in range(STEPS):
    if step % 10 == 0:
        taylor = taylor_coefficients(model, x, y, loss="cross_entropy", scales="norm")
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        with torch.no_grad():
            after = torch.nn.functional.cross_entropy(model(x), y)
        ratio = LR * taylor.c2 / abs(taylor.c1)  # 1: the quadratic model predicts no decrease
        print(f"{step:4}  {loss:.4f}     {taylor.predicted_loss(lr=LR):.4f}    {after:.4f}  {ratio:9.2f}")
