"""Projection in the metric of the outputs: what a layer gives on data counts, and not its weight by itself.

    (E6)  projection        P = D⁻¹·U_r·U_rᵀ·D·W;  U_r are the r leading eigenvectors of C = D·E[y·yᵀ]·D, with y = W·x
          energy            E = tr C, and E_r is the sum of the r largest eigenvalues, in (E1), (E3) and (E4)

D = diag(α) is that of (E5), the identity without a batch norm. Of all matrices of rank r, this P has the least mean square of
D·(W − P)·x over the inputs x: what is kept are the leading principal components of the outputs. If inputs were white, it would
be the P of (E2) and (E5). The sum of energies is the power of the outputs, so that energy transfer conserves that.

Inputs that calibration batches do not show would be cut off whatever the weight makes of them. So inputs are taken to be white
for a small part: C + δ·(tr C/‖D·W‖²_F)·D·W·Wᵀ·D.

Approximating outputs and not weights is known from: Chen, Yu, Dong, Zhang, Hsieh: DRONE, NeurIPS 2021; Yuan et al.: ASVD, 2023;
Wang et al.: SVD-LLM, ICLR 2025. These scale W by a root of E[x·xᵀ]; (E6) needs the outputs' moments alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrpet.projecting.matrices import energies, full_precision, inverse_or_zero, is_wide, scaled_rows
from lrpet.projecting.projection import DEAD_BELOW, Energies, Projection, Transfer, transfer_gain

#: δ, the part of white inputs.
WHITE = 0.01


@torch.no_grad()
def output_energies(matrix: Tensor, moment: Tensor, row_scale: Tensor | None = None) -> Tensor:
    """Compute the eigenvalues of C of (E6), the largest first, shape (batch, min(rows, columns)); see `project_outputs`."""
    with full_precision(matrix.device):
        return _components(matrix, moment, row_scale)[0]


@torch.no_grad()
def transfer_outputs(
    stack: Tensor,
    moment: Tensor,
    rank: int,
    *,
    row_scale: Tensor | None = None,
    energy_transfer: bool = True,
    tail_scale: float = 0.0,
) -> tuple[Transfer, Energies]:
    """Find what (E4) makes of a stack of weights in the metric of their outputs, (E6), without changing it.

    Layers without outputs to speak of stay as they are, and count as dead. The arguments are those of `project_outputs`, with
    ρ as `tail_scale`.
    """
    with full_precision(stack.device):
        values, vectors = _components(stack, moment, row_scale)
        energy, kept = values.sum(-1), values[:, :rank].sum(-1)
        dead = values[:, 0].sqrt() < DEAD_BELOW
        one = torch.ones_like(energy)
        gain = transfer_gain(energy, kept, tail_scale=tail_scale) if energy_transfer else one  # (E3)
        gain = torch.where(dead, tail_scale, gain)  # L·R is (g − ρ)·P, so that it is 0
        leading = vectors[..., :rank]
        right = leading.mT @ scaled_rows(stack.to(values.dtype), row_scale)
        left = (gain - tail_scale)[:, None, None] * leading
        if row_scale is not None:
            alpha = row_scale.to(values.dtype)
            inverse = inverse_or_zero(alpha.abs(), alpha.abs().amax(-1, keepdim=True)) * alpha.sign()
            left = scaled_rows(left, inverse)
    own = torch.where(dead, one, torch.full_like(one, tail_scale))
    after = torch.where(dead, energy, gain.square() * kept + tail_scale**2 * (energy - kept))
    energy, kept, after = (x.to(stack.dtype) for x in (energy, kept, after))
    return Transfer(*(x.to(stack.dtype) for x in (own, left, right))), Energies(energy, kept, after, dead)


def project_outputs(
    matrix: Tensor, moment: Tensor, rank: int, *, row_scale: Tensor | None = None, energy_transfer: bool = True
) -> Projection:
    """Project a stack of matrices to rank `rank` in the metric of their outputs: (E6).

    Args:
        matrix: W, shape (batch, rows, columns). It is finite and of floating point, and stays as it is.
        moment: E[y·yᵀ] of y = W·x, shape (batch, rows, rows).
        rank: r, from 1 to min(rows, columns).
        row_scale: α of (E5), shape (batch, rows).
        energy_transfer: Hand the pruned energy to what is kept, (E3) and (E4).

    Returns:
        The projected matrices, and the energies of (E6).
    """
    single = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    found, numbers = transfer_outputs(single, moment, rank, row_scale=row_scale, energy_transfer=energy_transfer)
    return Projection(found.applied(single).to(matrix.dtype), *numbers)


def _components(matrix: Tensor, moment: Tensor, row_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of C that can be above zero, and their eigenvectors, the largest first.

    The shapes are (batch, s) and (batch, rows, s) with s = min(rows, columns). A CPU computes in float64, others in float32.
    """
    dtype = torch.float64 if matrix.device.type == "cpu" else torch.float32
    weight = scaled_rows(matrix.to(dtype), row_scale)
    scaled = scaled_rows(scaled_rows(moment.to(dtype), row_scale).mT, row_scale)
    power, energy = scaled.diagonal(dim1=-2, dim2=-1).sum(-1), energies(weight, None)
    white = (WHITE * power / energy.clamp_min(torch.finfo(dtype).tiny))[:, None, None]
    if is_wide(weight):
        values, vectors = torch.linalg.eigh(scaled + white * (weight @ weight.mT))
    else:  # all outputs are in the span of the columns
        span, coordinates = torch.linalg.qr(weight)
        values, vectors = torch.linalg.eigh(span.mT @ scaled @ span + white * (coordinates @ coordinates.mT))
        vectors = span @ vectors
    return values.flip(-1).clamp_min(0), vectors.flip(-1)
