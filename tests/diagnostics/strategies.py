"""Random problems: all activations, losses and parameterizations, n below and above the widths, factors."""

from typing import Any

from hypothesis import strategies as st

from tests.oracles import Problem, make_problem

activations = st.sampled_from(
    ["relu", "abs", (0.3, 0.8), (-0.6, 0.5), (0.9, 0.2), (0.5, -0.5), "tanh", "gelu", "softplus", "swish"]
)
losses = st.sampled_from(["cross_entropy", "mse"])


def _problem(*, factored: bool, depth: int, **options: Any) -> Problem:
    return make_problem(rank=1 if factored and depth > 1 else None, depth=depth, **options)


def problems(*, max_depth: int = 5, max_samples: int = 12) -> st.SearchStrategy[Problem]:
    return st.builds(
        _problem,
        factored=st.booleans(),
        samples=st.integers(1, max_samples),
        inputs=st.integers(1, 6),
        outputs=st.integers(1, 4),
        depth=st.integers(1, max_depth),
        base_width=st.integers(1, 4),
        width_exponent=st.sampled_from([0.0, 1.0, 2.0]),
        activation=activations,
        parameterization=st.sampled_from(["nup", "ntp", "sp", "mup"]),
        loss=losses,
        seed=st.integers(0, 1000),
    )


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 1000)
