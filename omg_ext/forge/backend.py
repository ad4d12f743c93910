"""What differs between the Forges that OMG draws in: the one place that imports what only one of them has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from ..webui.identitynet import IdentityNets
from ..webui.which import KIND, Kind

Patches = Mapping[str, Any]
"""By the names of a model's parameters, what is merged into them"""


@dataclass(frozen=True)
class Unread:
    """
    Attributes:
        keys: of a network file, that are not known.
        is_all: whether the whole file is left out for that.
    """

    keys: Sequence[str]
    is_all: bool


class Backend(Protocol):
    """How one of them does it.

    Attributes:
        READS: the kinds of networks that it reads, and those that it does not.
        LEAVES_MODELS_WHOLE: whether a checkpoint that another one has replaced can be put back as long as it is held.
        DRAWS_FACES: whether there is an IdentityNet for it.
    """

    READS: str
    LEAVES_MODELS_WHOLE: bool
    DRAWS_FACES: bool

    def prepare(self, patcher: Any, x: Tensor) -> None:
        """Load a patched UNet for latents [B, C, h, w]."""
        ...

    def cleanup(self, patcher: Any) -> None:
        """Free what that took."""
        ...

    def sigmas(self, model: Any) -> Tensor:
        """Of a model's training steps, from the least on."""
        ...

    def control(self, first: Any, x: Tensor, sigma: Tensor, inputs: dict[str, Any], count: int) -> dict[str, Any]:
        """What the model takes of a chain of ControlNets.

        Args:
            x, sigma: some rows' latents and how far they are.
            inputs: what else the model takes.
            count: of rows that are each a batch of their own.
        """
        ...

    def read(self, state: Mapping[str, Tensor], unet: Any, clip: Any) -> tuple[Patches, Patches, Unread]:
        """A network file's patches for UNet and text encoders, and what is not read of it."""
        ...

    def parts(self, patch: Any) -> tuple[str, Sequence[Any]]:
        """A patch's kind and, of a ``lora``, up, down, alpha, middle and DoRA's scale; of others its tensors."""
        ...

    def on_meta(self, patch: Any) -> Any:
        """The patch with tensors that have shapes alone."""
        ...

    def merged(self, patch: Any, strength: float, parameter: Tensor) -> Tensor:
        """A new tensor: a parameter with the patch.

        Raises:
            RuntimeError: the patch cannot be merged into it.
            IndexError: the same.
        """
        ...

    def weight_and_bias(self, layer: nn.Module, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """A layer's, in float32 where a tensor is."""
        ...

    def with_networks(self, clip: Any, networks: Sequence[tuple[str, Patches, float]]) -> Any:
        """Text encoders that have networks, each by its file, besides those they had; None if that changes nothing."""
        ...

    def identitynets(self) -> IdentityNets:
        """See :class:`omg_ext.webui.identitynet.IdentityNets`."""
        ...

    def unload_models(self) -> None:
        """Move all that is on the graphics card to host memory."""
        ...

    def load(self, clip: Any) -> None:
        """Merge just these text encoders' networks into their weights."""
        ...

    def reader(self, model: Any) -> Any:
        """What reads prompts; SDXL has two, and takes the first's tokens for both."""
        ...

    def embeddings(self, model: Any) -> list[Any]:
        """See :class:`omg_ext.webui.engine.Engine`."""
        ...


def _backend() -> Backend:
    if KIND is Kind.REFORGE:
        from .of_reforge import ReForge
        return ReForge()
    if KIND is Kind.NEO:
        from .of_neo import Neo
        return Neo()
    from .of_forge import Forge
    return Forge()


backend = _backend()
"""Of the one that runs this."""
