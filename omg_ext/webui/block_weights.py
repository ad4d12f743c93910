"""Block weights in concepts' tags (``<lora:name:1:lbw=OUTALL>``), as the extension LoRA Block Weight applies them.

Its own code (github.com/hako-mikan/sd-webui-lora-block-weight) reads the tag, knows its presets and weighs each layer.
Here it is given one network at a time, and what it would silently ignore, or do while the picture is sampled, is
refused.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import networks as lora
from modules import script_loading
from modules.extra_networks import ExtraNetworkParams

from ..errors import OMGError
from ..request.tags import Tag

ARGUMENTS = ("lbw", "w", "lbwe", "x", "start", "stop", "step")
"""What the extension adds to a tag"""

_SCHEDULE = ("start", "stop", "step")
_LENGTHS = (12, 17, 20, 26)
_WEIGHT = re.compile(r"X([+-][\d.]+)?|[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")


@dataclass(frozen=True)
class BlockWeights:
    """The extension in one generation.

    Attributes:
        module: its script as a module.
        presets: lists of weights by name.
        elements: presets of ``lbwe=``.
    """

    module: Any
    presets: Mapping[str, str]
    elements: Mapping[str, str]

    @classmethod
    def of(cls, p: Any, field: str) -> BlockWeights:
        """
        Raises:
            OMGError: it is not installed, or switched off.
        """
        found = [script for script in (p.scripts.alwayson_scripts if p.scripts else ())
                 if script.title() == "LoRA Block Weight"]
        if not found:
            raise OMGError(field, "block weights in a tag (lbw=, lbwe=, start=, stop=, step=) need the extension LoRA "
                                  "Block Weight (sd-webui-lora-block-weight), which is not installed; install it, or "
                                  "take them out of the tag")
        script = found[0]
        is_active = p.script_args[script.args_from:script.args_to][1]
        if not is_active:
            raise OMGError(field, "block weights in a tag do nothing while the extension LoRA Block Weight is switched "
                                  "off; activate it, or take them out of the tag")
        return cls(script_loading.loaded_scripts[script.filename], script.lratios, script.elementals)

    def apply(self, net: Any, tag: Tag, field: str) -> None:
        """Weigh a network's layers, and set its multipliers, which the extension reads in a way of its own.

        Args:
            net: the Lora extension's, a copy whose modules nobody else has; it gets a name of its own, by which the
                Lora extension tells it from the unweighted one.

        Raises:
            OMGError: something in the tag that the extension would ignore, or that concepts cannot have.
        """
        named = dict(item.split("=", 1) for item in tag.items if "=" in item)
        self._check(named, field)
        if "=" in tag.items[0]:
            raise _not_understood(tag, field)
        for module in net.modules.values():
            if hasattr(module, "up_model"):
                module.up_model = copy.deepcopy(module.up_model)
        active = list(lora.loaded_networks)
        state = SimpleNamespace(isnet=True, is_flux=False, log={}, starts={}, stops={})
        called = ExtraNetworkParams(items=list(tag.items))
        try:
            lora.loaded_networks[:] = [net]
            self.module.loradealer(state, [], self.presets, self.elements, {"lora": [called]})
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise OMGError(field, f"LoRA Block Weight cannot weigh the blocks of {tag.name}, a {_kinds(net)}: {error}; "
                                  "take the block weights out of the tag") from error
        finally:
            lora.loaded_networks[:] = active
        if net.name == tag.name:
            raise _not_understood(tag, field)

    def _check(self, named: Mapping[str, str], field: str) -> None:
        for name in _SCHEDULE:
            if name in named:
                raise OMGError(field, f"{name}= in a tag does not work in a concept's prompt: its networks act in all "
                                      "steps from blend_start on; take it out of the tag")
        for name in ("lbw", "w"):
            if name in named:
                self._check_weights(name, named[name], field)
        if "lbwe" in named and named["lbwe"] not in self.elements:
            raise _unknown_preset("lbwe", named["lbwe"], self.elements, field)
        if "x" in named and not _WEIGHT.fullmatch(named["x"]):
            raise OMGError(field, f"x={named['x']} in a tag is not a number")

    def _check_weights(self, name: str, value: str, field: str) -> None:
        if value not in self.presets and "," not in value:
            raise _unknown_preset(name, value, self.presets, field)
        weights = [weight.strip() for weight in self.presets.get(value, value).split(",")]
        if len(weights) not in _LENGTHS:
            raise OMGError(field, f"{name}={value} has {len(weights)} weights; LoRAs for SD and SDXL take 12, 17, "
                                  "20 or 26")
        for weight in weights:
            if weight in ("R", "U"):
                raise OMGError(field, f"{name}={value} has the random weight {weight}, which OMG would draw anew in "
                                      "every pass; write a number instead")
            if not _WEIGHT.fullmatch(weight):
                raise OMGError(field, f"{name}={value} has the weight {weight!r}, which is not a number")


def _not_understood(tag: Tag, field: str) -> OMGError:
    return OMGError(field, f"LoRA Block Weight does nothing with <lora:{':'.join(tag.items)}>; it understands "
                           f"tags like <lora:{tag.name}:1:lbw=OUTALL>")


def _unknown_preset(name: str, value: str, presets: Mapping[str, str], field: str) -> OMGError:
    return OMGError(field, f"{name}={value} is no preset of LoRA Block Weight; known: {', '.join(presets) or 'none'}")


def _kinds(net: Any) -> str:
    return ", ".join(sorted({type(module).__name__.removeprefix("NetworkModule") for module in net.modules.values()}))
