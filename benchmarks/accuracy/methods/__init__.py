"""Every method: a function from a run to the compact network that it trains, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from benchmarks.accuracy.methods import (
    dense,
    factors,
    factors_frobenius,
    leads,
    lrpet,
    lrpet_retrain,
    pat,
    pruning,
    ranks,
    slorr,
    svd_retrain,
    trp,
    truncation,
    warm_up,
)
from benchmarks.accuracy.run import Run

METHODS: dict[str, Callable[[Run], nn.Module]] = {
    "dense": dense.train,
    **lrpet.METHODS,
    "by_energy_every_5": ranks.by_energy_every_5,
    "by_energy_friendly": ranks.by_energy_friendly,
    "by_energy": ranks.by_energy,
    "by_threshold": ranks.by_threshold,
    "by_sensitivity": ranks.by_sensitivity,
    "falling": ranks.falling,
    "falling_by_energy": ranks.falling_by_energy,
    "falling_by_threshold": ranks.falling_by_threshold,
    "searched": ranks.searched,
    "truncation": truncation.train,
    "lrpet_retrain": lrpet_retrain.train,
    "svd_retrain": svd_retrain.train,
    "factors": factors.train,
    "factors_frobenius": factors_frobenius.train,
    "factors_frobenius_best": factors_frobenius.best,
    "warm_up": warm_up.train,
    "slorr": slorr.train,
    "slorr_0.01": partial(slorr.train, strength=0.01),
    "slorr_0.001": partial(slorr.train, strength=0.001),
    "svd_retrain_by_energy": svd_retrain.by_energy,
    "svd_retrain_by_energy_plain": partial(svd_retrain.by_energy, rectify=False),
    "svd_retrain_best": partial(svd_retrain.by_energy, unfolding="best"),
    "svd_retrain_best_plain": partial(svd_retrain.by_energy, unfolding="best", rectify=False),
    "trp": trp.train,
    "pat": pat.train,
    "pruning": pruning.train,
    **leads.METHODS,
}
