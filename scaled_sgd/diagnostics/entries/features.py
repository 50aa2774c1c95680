"""Features, gradients and preactivations: what moves, and in how many directions."""

from scaled_sgd.diagnostics.columns import Column, Figure
from scaled_sgd.diagnostics.measured import Measured

_HERE = "scaled_sgd.diagnostics.quantities"

RANKS = Measured(
    f"{_HERE}.ranks:SoftRanks",
    "soft ranks of features and gradients, and kernel drift",
    (
        Column(
            "features.stable",
            "‖H‖_F²/‖H‖_2²",
            "hidden",
            Figure(
                "feature_ranks",
                "Do hidden features separate?",
                "stable rank",
                meaning="Stable rank ‖H‖²_F / ‖H‖²₂ of each hidden layer's features on a fixed probe",
            ),
        ),
        Column(
            "soft_ranks",
            "S_k of the gradients",
            "all",
            Figure(
                "soft_ranks",
                "How many directions does a layer's gradient see?",
                "soft rank S_k",
                meaning="Soft rank S_k of each layer's gradient on a fixed probe "
                "(1: all samples pull the same way)",
            ),
        ),
        Column("features.participation", "(Σσ²)²/Σσ⁴", "hidden", None, "participation ratio"),
        Column("features.effective", "exp of the entropy of σ²/Σσ²", "hidden", None, "effective rank"),
        Column(
            "features.drift",
            "‖K_t − K_0‖/‖K_0‖ of Gram matrices",
            "hidden",
            Figure(
                "kernel_drift",
                "Do wide networks still learn features?",
                "kernel drift",
                "the kernel drift",
                "‖K − K at step 0‖ / ‖K at step 0‖ of every hidden layer's feature kernel on a fixed probe",
                "width",
                "How far do features move?",
            ),
        ),
    ),
    ("probe",),
    cost=2,
    source="theory §3, §7",
)

CHANGE = Measured(
    f"{_HERE}.change:Change",
    "how far preactivations have moved",
    (
        Column(
            "preactivation_change",
            "‖z_k − z_k at first‖/‖z_k at first‖",
            "all",
            Figure(
                "coordinate_check",
                "Do preactivations move as much at every width?",
                "relative change of preactivations",
                "the relative change of preactivations",
                "RMS(z_k − z_k at step 0) / RMS(z_k at step 0) of every layer on a fixed probe",
                "width",
            ),
        ),
    ),
    ("probe",),
    cost=1.3,
    source="Yang, Hu, arXiv 2011.14522 (coordinate checks)",
    always=True,
)

KNOWLEDGE = Measured(
    f"{_HERE}.knowledge:KnowledgeGain",
    "what of each W_k stands out of noise: its low-rank part by variational Bayes",
    (
        Column(
            "knowledge_gain",
            "Σ_i s_i / (s_1 min(m_k, m_{k−1})), s_i those of the low-rank part",
            "all",
            Figure(title="How much of the weights stands out of noise?", axis="knowledge gain"),
        ),
        Column("mapping_condition", "s_1/s_p of the low-rank part; null where it is 0", "all", None),
        Column("low_rank", "p / min(m_k, m_{k−1})", "all", None, "rank of the low-rank part over full rank"),
    ),
    ("minibatch",),
    cost=3,
    source="Hosseini, Plataniotis, arXiv 2006.06587; Nakajima et al., JMLR 14 (2013)",
)
