"""Whole training steps, the hook included, as one CUDA graph: one launch a step. On a CPU they run plain."""

import os

import torch
from torch.nn.functional import cross_entropy

from scaled_sgd import DepthwiseScaling, HomogeneousMLP

STEPS = int(os.environ.get("STEPS", "100"))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

model = HomogeneousMLP(64, 10, depth=6, base_width=16, seed=0).to(DEVICE)
optimizer = torch.optim.SGD(model.parameters(), lr=4.0, momentum=0.5)
scaling = DepthwiseScaling(model, optimizer, rule="norm")  # attach it before anything is captured

x = torch.randn(2048, 64)
x *= 8 / x.norm(dim=1, keepdim=True)  # ‖x‖ = √m_0
y = x[:, :10].argmax(1)
x, y = x.to(DEVICE), y.to(DEVICE)
inputs, targets = x[:256].clone(), y[:256].clone()  # a graph reads its minibatch from fixed places


def step():
    optimizer.zero_grad(set_to_none=True)
    loss = cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()  # sees ξ_k G_k
    return loss.detach()


def captured(step):
    """``step`` as a CUDA graph; the steps before it make what is made once, and are checked by the hook."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay():
        graph.replay()
        return loss

    return replay


take = captured(step) if DEVICE == "cuda" else step
for number in range(STEPS):
    rows = slice(256 * (number % 8), 256 * (number % 8) + 256)
    inputs.copy_(x[rows])
    targets.copy_(y[rows])
    loss = take()
print(f"loss {loss.item():.3f}, scales {[round(xi, 3) for xi in scaling.scales.tolist()]}")
