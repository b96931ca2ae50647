"""Deployment: an ONNX file that is checked against the network, run by ONNX Runtime alone.

python examples/onnx_deployment.py

"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch

import lrpet


def main(folder: str = "runs/onnx", *, name: str = "vgg16_bn", seconds: float = 1.0) -> float:
    """Export a compact network, run the file, and return how far it is from the network at most."""
    torch.manual_seed(0)
    example = torch.randn(4, 3, 32, 32)
    model = lrpet.models.create(name).eval()  # stands for a network that was trained
    compact = lrpet.compress(model, example, macs=0.45).eval()  # a trained one comes from Projector.finish
    file = Path(folder) / "compact.onnx"
    artefact = lrpet.export(compact, file, example, overwrite=True)  # refused if it differed from the network
    print(f"{artefact.path}: largest error {max(check['error'] for check in artefact.manifest['checks']):.1e}")

    lrpet.exporting.verify(file)  # raises where the file is not the one that was checked
    session = onnxruntime.InferenceSession(file)  # from here on, no PyTorch is needed
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)  # any batch size
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})

    print(lrpet.bench({"dense": model, "compact": compact}, example, runtimes=["onnxruntime"], seconds=seconds))
    with torch.no_grad():
        return float(np.abs(compact(torch.from_numpy(images)).numpy() - logits).max())


if __name__ == "__main__":
    main()
