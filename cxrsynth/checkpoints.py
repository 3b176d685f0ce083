"""What every reader of a checkpoint asks of it."""

from pathlib import Path

from torch import nn

from cxrsynth.errors import UserError


def check_finite(module: nn.Module, path: str | Path) -> None:
    """Refuse weights that a failed training or a damaged file left.

    Raises:
        UserError: A weight is infinite or NaN.
    """
    if not all(weight.isfinite().all() for weight in module.state_dict().values()):
        raise UserError(
            f"checkpoint {path} holds weights that are not finite: its training failed; take an earlier one"
        )
