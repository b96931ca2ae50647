"""Which methods the figures show, and in which colours: LRPET has one colour in every picture of the project."""

LRPET = "#0072b2"
#: {method: its colour}. Methods that are not here are told by tables alone.
COLOURS = {
    "dense": "#333333",
    "by_energy_every_5": LRPET,
    "by_energy_friendly": LRPET,
    "every_5_from_half": LRPET,
    "lead_best": LRPET,
    "lead_base": "#4a90c2",
    "lead_uniform": LRPET,
    "lrpet_authors": "#56b4e9",
    "lrpet_published": "#56b4e9",
    "svd_retrain": "#b08d00",
    "svd_retrain_by_energy": "#b08d00",
    "svd_retrain_best_plain": "#e0b000",
    "truncation": "#c1272d",
    "factors": "#009e73",
    "factors_frobenius": "#66a61e",
    "lead_factors": "#009e73",
    "warm_up": "#1b7837",
    "trp": "#cc79a7",
    "slorr": "#984ea3",
    "pruning": "#8c564b",
}
