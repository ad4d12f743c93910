"""Files of networks as both web UIs' bundled Lora extensions know them: names, aliases, hashes, what is in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import networks as lora
import safetensors
from modules import sd_models, shared

from ..errors import OMGError
from ..request.architecture import Shapes, wrong_architecture
from ..request.tags import Tag, either, suggestion


def refuse_unknown(tags: Sequence[Tag], field: str) -> None:
    """Raises:
        OMGError: a tag names no file, or one that the Lora extension cannot tell from others.
    """
    for tag in tags:
        if on_disk(tag.name) is None:
            lora.update_available_networks_by_names([tag.name])
        if on_disk(tag.name) is None:
            raise _unknown(tag, field)


def _unknown(tag: Tag, field: str) -> OMGError:
    with_alias = sorted(name for name, disk in lora.available_networks.items()
                        if disk.alias.lower() == tag.name.lower() != name.lower())
    if len(with_alias) > 1:
        files = ", ".join(os.path.basename(lora.available_networks[name].filename) for name in with_alias)
        return OMGError(field, f"{len(with_alias)} files have the alias {tag.name!r}: {files}; "
                               f"write one file's name, {either(tag, with_alias)}")
    known = {name: disk.filename for name, disk in lora.available_networks.items()}
    aliases = {alias: disk.filename for alias, disk in lora.available_network_aliases.items()
               if alias.lower() not in lora.forbidden_network_aliases}
    return OMGError(field, f"there is no LoRA {tag.name!r} in {shared.cmd_opts.lora_dir}"
                           f"{suggestion(tag, {**aliases, **known})}")


def on_disk(name: str) -> Any:
    """As the Lora extension looks a name up: by alias, unless the alias is ambiguous."""
    ambiguous = name.lower() in lora.forbidden_network_aliases
    return (lora.available_networks if ambiguous else lora.available_network_aliases).get(name)


def file_of(net: Any) -> str:
    """Where a network was read from."""
    return str(net.network_on_disk.filename)


def active_files() -> set[str]:
    """The files of the global prompt's networks."""
    return {file_of(net) for net in lora.loaded_networks}


def add_hashes(p: Any, nets: Sequence[Any]) -> None:
    """Into the infotext's "Lora hashes", by which model sites recognise what a picture was made with."""
    if not nets or not shared.opts.lora_add_hashes_to_infotext:
        return
    for net in nets:
        if net.network_on_disk.shorthash and net.mentioned_name:
            name = net.mentioned_name.translate(lora.extra_network_lora.remove_symbols)
            p.lora_hashes[name] = net.network_on_disk.shorthash
    if p.lora_hashes:
        p.extra_generation_params["Lora hashes"] = ", ".join(": ".join(item) for item in p.lora_hashes.items())


def loaded_architecture() -> str:
    """The family of the loaded model."""
    model = shared.sd_model
    return "SDXL" if model.is_sdxl else "SD 2.x" if getattr(model, "is_sd2", False) else "SD 1.x"


def shapes_of(disk: Any) -> Shapes:
    """Of all tensors in a file, by key."""
    if disk.is_safetensors:
        with safetensors.safe_open(disk.filename, framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in list(file.keys())}
    read = getattr(lora, "load_lora_state_dict", None) or sd_models.read_state_dict  # Forge's; there the other is empty
    # files of embeddings hold other things beside tensors
    return {str(key): tuple(getattr(value, "shape", ())) for key, value in read(disk.filename).items()}


def wrong_architecture_of(disk: Any, field: str) -> OMGError:
    """A file of the Lora extension was made for another model than the loaded one."""
    return wrong_architecture(field, disk.name, shapes_of(disk), disk.metadata or {}, loaded_architecture())
