"""sd-webui-controlnet's units on the rows of concepts.

Its hook replaces the UNet's ``forward``. It knows conditional rows by a mark (:mod:`.conditioning` gives concepts' rows
the same), and adds what a ControlNet or a T2I-Adapter says to every row, so those need nothing. Others do:

* *ControlNet-LLLite* adds to the inputs of projections, within their ``forward``. Here it does before, so that
  concepts' networks act on what the projections really get, and to whole rows, since it goes by the place of a token.
* *IP-Adapters* go by the marks of the UNet's rows, and a joint row attends place by place.
* *Reference* units evaluate the UNet once more within each call: see :mod:`.reference`.
* All that encode their picture keep it for as many rows as the first call had.

Nothing of the extension is imported: it is known by what stands on its objects.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from ..errors import OMGError
from ..request import Request
from ..unet.calls import PlacesCall
from ..unet.patches import Args, Patches, cross_attentions
from . import reference
from .reference import Reference
from .replacing import replaced

KINDS = ("ControlNet", "ControlLoRA", "ControlNetUnion", "T2I_Adapter", "Controlllite", "IPAdapter", reference.KIND)
# what a unit keeps of its encoded picture, repeated for each row
PER_ROW = ("used_hint_cond_latent", "used_hint_inpaint_hijack")


def is_controlnet(script: Any) -> bool:
    """Whether a script of the web UI is the extension's."""
    return bool(script.title() == "ControlNet")


def refuse(script: Any, asked: Request) -> None:
    """Refuse units that do not act on concepts' rows as on the picture's.

    Args:
        script: the extension's.
        asked: what the user asks for.

    Raises:
        OMGError: with the unit's name.
    """
    hook = getattr(script, "latest_network", None)
    if hook is None:
        return
    for unit in hook.control_params or ():
        kind, preprocessor = _kind_of(unit), unit.preprocessor["name"]
        if kind not in KINDS or "+lama" in preprocessor or _has_several_pictures(unit):
            name = preprocessor if "+lama" in preprocessor else kind
            raise OMGError("ControlNet", f"a unit with {name} does not act on concepts as on the picture; "
                                         "turn this unit off, or use one that draws after a map (canny, depth, pose)")
        if asked.predict == "joint" and asked.control_concepts:
            _refuse_joint(unit)
    separate, aligned = getattr(script, "ui_batch_option_state", ("All", False))
    if aligned or not str(separate).startswith("All"):
        raise OMGError("ControlNet", "its batch options tell pictures apart by their number, and concepts shift it; "
                                     "choose all units for all images, without StyleAlign")


def _kind_of(unit: Any) -> str:
    """What it is. SparseCtrl, which draws the pictures of a film, goes by the name of a ControlNet."""
    network = getattr(getattr(unit, "control_model", None), "control_model", None)
    return "SparseCtrl" if type(network).__name__ == "SparseCtrl" else str(unit.control_model_type.name)


def _has_several_pictures(unit: Any) -> bool:
    """Batches of animations have one for each row."""
    hint = getattr(unit, "hint_cond", None)
    return isinstance(hint, Tensor) and len(hint) > 1


def _refuse_joint(unit: Any) -> None:
    """Refuse what goes by all tokens of a row where those of each place are looked at for themselves."""
    kind, instead = unit.control_model_type.name, "choose shared, or keep the concepts free of it (control_concepts)"
    if kind == reference.KIND:
        raise OMGError("predict", f"joint has the places of all concepts in one row, and {unit.preprocessor['name']} "
                                  f"in ControlNet gives that row the tokens of another picture; {instead}")
    if kind == "IPAdapter" and (unit.effective_region_mask is not None or unit.control_model.ipadapter.is_pulid):
        what = "PuLID" if unit.control_model.ipadapter.is_pulid else "IP-Adapter with an effective region mask"
        raise OMGError("predict", f"joint looks at each concept's place for itself, and ControlNet's {what} at the "
                                  f"whole picture; {instead}")


class Units:
    """The units that act in one batch of pictures.

    Args:
        scripts: the web UI's, with the extension's among them if it is there.
        controls_concepts: whether they act on concepts' rows.
    """

    def __init__(self, scripts: Sequence[Any], controls_concepts: bool = True):
        self._scripts, self._controls_concepts, self._reference = scripts, controls_concepts, Reference()

    @property
    def draw_noise(self) -> bool:
        """Whether a pass depends on noise that they draw."""
        return any(reference.units_of(hook) for hook in self._hooks())

    @contextmanager
    def following(self, patches: Patches) -> Iterator[None]:
        """Within the block, which is one pass, units act on each row of the running calls as on one of the web UI's.

        Args:
            patches: the UNet's.
        """
        with ExitStack() as stack:
            for hook in self._hooks():
                stack.enter_context(_fitting(hook))
                if not self._controls_concepts:
                    stack.enter_context(_resting_for_concepts(hook, patches))
                for unit in hook.control_params:
                    if unit.control_model_type.name == "IPAdapter":
                        stack.enter_context(_image_of_rows(unit.control_model, patches))
                if reference.units_of(hook):
                    stack.enter_context(self._reference.acting(hook, patches))
                stack.enter_context(_lllite_before(hook, patches))
            yield

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Within the block no unit acts: the UNet answers to prompts alone."""
        with ExitStack() as stack:
            for hook in self._hooks():
                stack.enter_context(_fitting(hook))
                stack.enter_context(_resting(hook))
            yield

    def _hooks(self) -> list[Any]:
        """The extension's hook on the UNet, if it acts."""
        hooks = [getattr(script, "latest_network", None) for script in self._scripts if is_controlnet(script)]
        return [hook for hook in hooks if hook is not None and hook.control_params]


@contextmanager
def _fitting(hook: Any) -> Iterator[None]:
    """Units have what they keep for each row for as many rows as a call has."""
    forward = hook.model.forward

    def fitted(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for unit in hook.control_params:
            for name in PER_ROW:
                kept = getattr(unit, name, None)
                if kept is not None and len(kept) != len(x):
                    setattr(unit, name, kept[:1].repeat(len(x), 1, 1, 1))
        output: Tensor = forward(x, *args, **kwargs)
        return output

    with replaced(hook.model, "forward", fitted):
        yield


@contextmanager
def _resting(hook: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for unit in hook.control_params:
            stack.enter_context(replaced(unit, "guidance_stopped", True))
            stack.enter_context(replaced(unit, "weight", 0.0))  # what acts on the prediction goes by it alone
        # before the start of all that go by it
        stack.enter_context(replaced(hook.model, "current_sampling_percent", -1.0))
        yield


@contextmanager
def _resting_for_concepts(hook: Any, patches: Patches) -> Iterator[None]:
    """No unit acts in calls of concepts' rows, which have none of the picture's own."""
    forward = hook.model.forward

    def called(*args: Any, **kwargs: Any) -> Tensor:
        call = patches.call
        is_own = call is None or all(row.concept is None for row in call.rows)
        with nullcontext() if is_own else _resting(hook):
            output: Tensor = forward(*args, **kwargs)
        return output

    with replaced(hook.model, "forward", called):
        yield


class _ImageOfRows:
    """Stands in for an IP-Adapter's image prompt, which is one for conditional rows and another for the others.

    Its keys and values are kept by the extension as the first call's rows had them, whatever rows come later: in the
    second sampling of Hires. fix, too, whose rows have no marks.

    Args:
        model: the extension's, with its image prompt: ``eval(marks of n rows [n, 1, 1, 1]) -> [n, tokens, width]``.
        patches: know what the rows of cross-attention are, which may be those of places.
    """

    def __init__(self, model: Any, patches: Patches):
        self._model, self._patches = model, patches
        self._image, self._kept = model.image_emb, model.cache
        self._kept_of: dict[tuple[bool, ...], dict[str, Tensor]] = {}
        self._marks: dict[tuple[bool, ...], Tensor] = {}

    def eval(self, cond_mark: Tensor) -> Any:
        call = self._patches.call
        if call is None:
            return self._image.eval(cond_mark)
        is_cond = tuple(row.part is not None for row in call.rows)
        rows = next((len(kept) for kept in self._kept.values()), len(is_cond))
        if rows == len(is_cond) and all(row.concept is None for row in call.rows):
            self._model.cache = self._kept  # the picture's own rows have what they have without concepts
            return self._image.eval(cond_mark)
        self._model.cache = self._kept_of.setdefault(is_cond, {})
        if is_cond not in self._marks:
            self._marks[is_cond] = cond_mark.new_tensor(is_cond)[:, None, None, None]
        return self._image.eval(self._marks[is_cond])


@contextmanager
def _image_of_rows(model: Any, patches: Patches) -> Iterator[None]:
    """An IP-Adapter has its image prompt for the rows of the running calls."""
    with replaced(model, "cache", model.cache), replaced(model, "image_emb", _ImageOfRows(model, patches)):
        yield


@contextmanager
def _lllite_before(hook: Any, patches: Patches) -> Iterator[None]:
    """ControlNet-LLLite's addition comes before all hooks of a projection; for queries of cross-attention, before
    those of the whole module, which gathers the tokens of places."""
    units = [unit.control_model for unit in hook.control_params if unit.control_model_type.name == "Controlllite"]
    modules = {layer: module for module in cross_attentions(patches.network) for layer in [module.to_q]}
    handles = []
    with ExitStack() as stack:
        for layer in patches.network.modules() if units else ():
            if getattr(layer, "lllite_list", None):
                forward = inspect.getclosurevars(inspect.unwrap(layer.forward)).nonlocals["original_forward"]
                add = units[0].get_hacked_forward(original_forward=_as_it_is, model=patches.network, blk=layer)
                stack.enter_context(replaced(layer, "forward", forward))
                handles.append(modules.get(layer, layer).register_forward_pre_hook(_adding(add, patches), prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _adding(add: Callable[[Tensor], Tensor], patches: Patches) -> Callable[[nn.Module, Args], Args | None]:
    def before(module: nn.Module, args: Args) -> Args | None:
        # a place's tokens are those of a row that it was added to
        return None if isinstance(patches.call, PlacesCall) else (add(args[0]), *args[1:])

    return before


def _as_it_is(x: Tensor) -> Tensor:
    return x
