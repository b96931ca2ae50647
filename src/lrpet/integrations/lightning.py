"""Lightning: a callback.

projector = lrpet.Projector(module.network, plan)          # the length of the training comes from the trainer
trainer = L.Trainer(callbacks=[ProjectorCallback(projector)], ...)
trainer.fit(module)
compact = projector.finish()
"""

from __future__ import annotations

from typing import Any

import lightning as L

from lrpet.integrations.optimizer import Attachment, attach
from lrpet.projecting.projector import Projector


class ProjectorCallback(L.Callback):
    """Projects after the optimizer steps at which the projector says so, and once more when training ends.

    The projector goes into Lightning's checkpoints, and comes back with them. What a projection pruned is logged as
    `lrpet/pruned`. Skipped steps (gradient scaler) and accumulated batches do not count. A projector without `total_steps`
    takes the trainer's estimate.

    Args:
        projector: Made for the LightningModule, or for a module in it; with the plan made before it is moved to its device.
        optimizer: The index of the LightningModule's optimizer, if it has several.
    """

    def __init__(self, projector: Projector, *, optimizer: int = 0) -> None:
        self.projector = projector
        self.optimizer = optimizer
        self._handle: Attachment | None = None
        self._logged: object = None
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Attach to the optimizer."""
        if self.projector.total_steps is None and not self.projector.steps:
            steps = trainer.estimated_stepping_batches
            self.projector.total_steps = int(steps) if 0 < steps < float("inf") else None
        if self._restored is not None:
            self.projector.load_state_dict(self._restored)
            self._restored = None
        self._handle = attach(self.projector, trainer.optimizers[self.optimizer], keep_state=False)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Log the projection, if there was one."""
        report = self.projector.last
        if report is not None and report is not self._logged:
            self._logged = report
            pl_module.log("lrpet/pruned", report.pruned)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Project, so that the weights are low-rank, and detach."""
        self.projector.settle()
        self._detach()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Detach."""
        self._detach()

    def _detach(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def state_dict(self) -> dict[str, Any]:
        """Return the projector's state, for the checkpoint."""
        return self.projector.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the projector's state from the checkpoint.

        Raises ValueError if it belongs to a projector with other layers or ranks.
        """
        if self.projector.total_steps is None:  # the trainer knows it when training starts
            self._restored = state_dict
        else:
            self.projector.load_state_dict(state_dict)
