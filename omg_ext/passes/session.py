"""The paper on one screen: first pass, visual comprehension, second pass (Sec. 3.2 and 3.3)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..comprehension import Models
from ..comprehension.masks import FloatArray
from ..comprehension.places import Places, given_masks
from ..errors import OMGError
from ..faces.places import find_faces
from ..host import ConceptPrompt, Host, LoadedConcept, SwitchedOff
from ..request import Concept, Request
from ..request.tags import parse_tags, refuse_tags
from ..unet.calls import every_row
from ..unet.layout import LayoutRecorder, LayoutReplay
from ..unet.networks import RowNetworks
from ..unet.patches import Patches
from ..unet.query_store import QueryStore
from .account import FIRST, SECOND, Account
from .comprehend import Comprehension
from .first import FirstResult, FirstTap
from .given import Given, too_little
from .memory import Memory
from .noise import Noise
from .one_pass import OnePassTap
from .second import Blending, SecondTap, too_late
from .stage import Stage

log = logging.getLogger(__name__)

BROKEN_OFF = "it was broken off while the concepts were {}, so this is the first picture"
NOT_SOUGHT = "blend_start: another model took over before it, so the concepts were not looked for"


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a session gives back.

    Attributes:
        latents: the result, [B, C, h, w].
        first: the first pass's latents, [B, C, h, w].
        places: where the concepts are; None if the user broke off before they were looked for.
        warnings: what the user should know.
    """

    latents: Tensor
    first: Tensor
    places: Places | None = None
    warnings: list[str] = field(default_factory=list)


class Session:
    """One request on one batch of pictures.

    Args:
        host: see :class:`Host`.
        request: validated.
        memory: see :class:`Memory`.

    Attributes:
        account: what was spent so far. Drawn at once, both passes are the second.
        comprehension: finds the concepts in pictures.
    """

    def __init__(self, host: Host, request: Request, memory: Memory, models: Models):
        self.account = Account()
        self.comprehension = Comprehension(host, request, memory, models, self.account)
        self._host, self._request, self._memory, self._models = host, request, memory, models

    def draw(self, first: FirstResult | None = None) -> Drawn:
        """All of it.

        Args:
            first: a finished first pass of the same batch, which is then not drawn again; what it keeps stays the
                caller's.

        Raises:
            OMGError: anything the user can mend; nothing stays hooked.
        """
        given, concepts = self.given(), self.load()
        warnings = [warning for concept in concepts for warning in concept.warnings]
        if self._request.first_pass == "prefix":
            return self._draw_at_once(concepts, given, warnings)
        if first is not None:
            first.noise_after.restore(self._host.generators)
            return self._second_or_first(concepts, first, given, warnings)
        first = self.first()
        try:
            if self._host.stopped:
                return Drawn(first.latents, first.latents)
            return self._second_or_first(concepts, first, given, warnings)
        finally:
            first.layout.store.clear()

    def preview(self) -> tuple[Drawn, FirstResult | None]:
        """The ordinary picture, and where the concepts are in it; no places if the user broke it off.

        Returns:
            The first pass too if it is one that :meth:`draw` can go on from; what it keeps is the caller's.

        Raises:
            OMGError: as :meth:`draw`; nothing is kept.
        """
        given = self.given()
        if self._request.first_pass == "prefix":
            return self._draw_at_once([], given, []), None
        first = self.first()
        try:
            places = None if self._host.stopped else self.find(first, given)
        except BaseException:
            first.layout.store.clear()
            raise
        return Drawn(first.latents, first.latents, places, [] if places is None else places.warnings), first

    def over(self, given: Given) -> Drawn:
        """Given pictures with the concepts (img2img): found in them, and blended in while the host samples once.

        The ordinary picture, with the reason, if that fails and the request is not strict.

        Raises:
            OMGError: as :meth:`draw`.
        """
        host, masks, concepts = self._host, self.given(), self.load()
        noise = Noise.of(host.generators)
        places: Places | None = None
        more: list[str] = []
        try:
            found = self.comprehension.in_given(given, masks)
            places = find_faces([concept.face for concept in concepts], found, given.picture, host.faces)
            noise.restore(host.generators)
            latents, more = self._over(concepts, places, given.strength) if places else (self._plain(), [])
        except OMGError:
            raise
        except Exception as error:
            latents, more = self._ordinary(error, places, noise)
        warnings = [warning for concept in concepts for warning in concept.warnings]
        told = [] if places is None else places.warnings
        return Drawn(latents, given.latents, places, [*warnings, *told, *more])

    def preview_over(self, given: Given) -> Drawn:
        """Where the concepts are in given pictures: nothing is drawn.

        Raises:
            OMGError: as :meth:`draw`.
        """
        places = self.comprehension.in_given(given, self.given())
        return Drawn(given.latents, given.latents, places, places.warnings)

    def given(self) -> list[FloatArray | None]:
        """The masks that need no search; all about finding concepts that can be wrong is said here.

        Raises:
            OMGError: see :func:`omg_ext.comprehension.places.given_masks`.
        """
        return given_masks(self._request, self._host.size, self._host.latent_size, self._models)

    def load(self) -> list[LoadedConcept]:
        """The concepts' networks, and their prompts encoded with them."""
        noise = Noise.of(self._host.generators)
        loaded: list[LoadedConcept] = []
        for index, concept in enumerate(self._request.concepts):
            if not concept.enabled:
                loaded.append(SwitchedOff())
                continue
            name = f"concepts[{index}].prompt"
            made = self._host.prompts_of(index, concept)
            for negative in set(made.negatives or ()):
                refuse_tags(negative, f"concepts[{index}].negative_prompt")
            parsed = [parse_tags(prompt, name, self._host.tag_arguments) for prompt in made.prompts]
            tags = parsed[0][1]  # where they differ from picture to picture the first decides, as in the web UI
            loaded.append(self._host.load(ConceptPrompt(index, [text for text, _ in parsed], tags, made.negatives,
                                                        name, self._needs_bare(concept))))
        noise.restore(self._host.generators)  # modules that are made to hold a LoRA draw random numbers
        return loaded

    def _needs_bare(self, concept: Concept) -> bool:
        """Whether a way of prediction asks for prompts without networks: of the negative prompt that it has for itself,
        or to guide by the networks. A joint row has those of all concepts."""
        if self._request.predict == "joint":
            return any(map(self._asks_bare, self._request.drawn))
        return self._asks_bare(concept)

    def _asks_bare(self, concept: Concept) -> bool:
        has_own_negative = (concept.negative_prompt is not None or concept.cfg_scale is not None
                            or not self._request.control_concepts)
        return bool(concept.lora_guidance) or (self._request.predict != "separate" and has_own_negative)

    def first(self) -> FirstResult:
        """The ordinary picture, and all that the other stages need of it."""
        host, request = self._host, self._request
        noise = Noise.of(host.generators)
        with self.account.stage(FIRST, host.unet), Patches(host.unet) as patches:
            # style first: what is recorded must include it
            RowNetworks(patches, [(every_row, host.style)])
            recorder = LayoutRecorder(patches, request.layout,
                                      QueryStore(self._memory.device_budget, self._memory.host_budget))
            attention = self.comprehension.attention(patches)
            tap = FirstTap(patches, request.blend_start, recorder)
            latents = host.sample(tap)
        after = Noise.of(host.generators)
        heat = attention.maps(host.latent_size) if attention is not None else None
        return FirstResult(latents, tuple(tap.calls), recorder.record(), heat, noise, after)

    def find(self, first: FirstResult, given: list[FloatArray | None]) -> Places:
        """Visual comprehension in a finished first pass.

        Args:
            given: the masks that need no search, see :func:`omg_ext.comprehension.places.given_masks`.
        """
        return self.comprehension(first.latents, first.heat, given, first.layout.store.drop_device)

    def with_faces(self, concepts: list[LoadedConcept], places: Places, seen: Tensor) -> Places:
        """The places with the key points of the faces that IdentityNets draw.

        Args:
            seen: the latents in which the places were found, [B, C, h, w].
        """
        return find_faces([concept.face for concept in concepts], places, partial(self._host.decode, seen),
                          self._host.faces)

    def second(self, concepts: list[LoadedConcept], places: Places,
               first: FirstResult | None = None) -> tuple[Tensor, list[str]]:
        """The picture again, with the concepts in their places.

        Args:
            first: what is repeated; without, this is a pass of its own over a picture that has its layout (Hires. fix).

        Returns:
            The latents, and what the user should know.
        """
        host, request = self._host, self._request
        before = Noise.of(host.generators)
        if first is not None:
            first.noise.restore(host.generators)
        try:
            with self.account.stage(SECOND, host.unet), Patches(host.unet) as patches:
                stage = Stage(host, request, self._memory, patches, concepts,
                              first.layout.store.drop_device if first is not None else lambda: False)
                replay = LayoutReplay(patches, first.layout) if first is not None else None
                tap = SecondTap(stage.evaluator, request.blend_start, stage.blending(places), first)
                latents = host.sample(tap)
                if not host.stopped:
                    tap.finish()
        finally:
            if first is not None:
                before.restore(host.generators)
        warnings = sorted(replay.warnings) if replay is not None else []
        if not host.stopped:
            warnings += too_late(request.blend_start, len(tap.points), len(tap.blended))
        return latents, warnings

    def _over(self, concepts: list[LoadedConcept], places: Places, strength: float) -> tuple[Tensor, list[str]]:
        """One pass over given pictures, which have their layout: as :meth:`second` without a first."""
        host, start = self._host, self._request.blend_start
        with self.account.stage(SECOND, host.unet), Patches(host.unet) as patches:
            stage = Stage(host, self._request, self._memory, patches, concepts)
            tap = SecondTap(stage.evaluator, start, stage.blending(places))
            latents = host.sample(tap)
            if not host.stopped:
                tap.finish()
        if host.stopped:
            return latents, []
        steps, blended = len(tap.points), len(tap.blended)
        return latents, too_late(start, steps, blended) or (too_little(strength, steps) if start < 1 else [])

    def reason(self, error: Exception) -> str:
        """Why a pass failed, for the user, who gets what there is without it.

        Raises:
            OMGError: the request is strict.
        """
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, torch.cuda.OutOfMemoryError):
            reason = ("it does not fit into graphics memory; lower the picture's size, the batch size or, in OMG's "
                      "settings, the graphics memory for keeping the layout")
        if self._request.strict:
            raise OMGError("second pass", reason) from error
        log.error("OMG: a pass failed", exc_info=error)
        return reason

    def _second_or_first(self, concepts: list[LoadedConcept], first: FirstResult, given: list[FloatArray | None],
                         warnings: list[str]) -> Drawn:
        """The second picture; the first, with the reason, if the user breaks it off, or if it fails and the request is
        not strict."""
        places: Places | None = None
        latents, more = first.latents, list[str]()
        try:
            places = self.with_faces(concepts, self.find(first, given), first.latents)
            if self._host.stopped:
                more = [BROKEN_OFF.format("looked for")]
            elif places or self._host.refines:
                latents, more = self.second(concepts, places, first) if places else (self._to_its_end(first), [])
                if self._host.stopped:
                    # half drawn, the concepts and the picture around them are neither here nor there
                    latents, more = first.latents, [BROKEN_OFF.format("drawn")]
        except OMGError:
            raise
        except Exception as error:
            failed = "finding the concepts" if places is None else "the second pass"
            latents, more = first.latents, [f"{failed} failed, so this is the first picture: {self.reason(error)}"]
        found = [] if places is None else places.warnings
        return Drawn(latents, first.latents, places, [*warnings, *found, *more])

    def _draw_at_once(self, concepts: list[LoadedConcept], given: list[FloatArray | None],
                      warnings: list[str]) -> Drawn:
        """Both passes in one; the ordinary picture, with the reason, if that fails and the request is not strict."""
        host, noise = self._host, Noise.of(self._host.generators)
        places: Places | None = None
        seen: Tensor | None = None
        more: list[str] = []

        def comprehend(estimate: Tensor) -> Blending | None:
            nonlocal places, seen
            seen = estimate
            heat = attention.maps(host.latent_size) if attention is not None else None
            places = self.with_faces(concepts, self.comprehension(estimate, heat, given), estimate)
            return stage.blending(places) if places and concepts else None

        try:
            with self.account.stage(SECOND, host.unet), Patches(host.unet) as patches:
                stage = Stage(host, self._request, self._memory, patches, concepts)
                attention = self.comprehension.attention(patches)
                tap = OnePassTap(stage.evaluator, self._request.blend_start, comprehend)
                latents = host.sample(tap)
                if not host.stopped:
                    tap.finish()
                    if tap.seen is None and host.refines:
                        more = [NOT_SOUGHT]
                    elif tap.seen is None:  # the sampler came to its end before
                        comprehend(latents)
            if places and concepts and not host.stopped:
                more = too_late(self._request.blend_start, len(tap.points), len(tap.blended))
        except OMGError:
            raise
        except Exception as error:
            latents, more = self._ordinary(error, places, noise)
        found = [] if places is None else places.warnings
        return Drawn(latents, latents if seen is None else seen, places, [*warnings, *found, *more])

    def _to_its_end(self, first: FirstResult) -> Tensor:
        """The ordinary picture whose first pass lacks its end; the rest comes from memory as far as that goes."""
        after = Noise.of(self._host.generators)
        first.noise.restore(self._host.generators)
        try:
            return self._plain(first)
        finally:
            after.restore(self._host.generators)

    def _ordinary(self, error: Exception, places: Places | None, noise: Noise) -> tuple[Tensor, list[str]]:
        """The ordinary picture, and why it is no other.

        Args:
            places: of the concepts, if they were found.
            noise: before it.

        Raises:
            OMGError: the request is strict.
        """
        failed = "finding the concepts" if places is None else "drawing the concepts"
        reason = f"{failed} failed, so this is the ordinary picture: {self.reason(error)}"
        noise.restore(self._host.generators)
        return self._plain(), [reason]

    def _plain(self, first: FirstResult | None = None) -> Tensor:
        """The ordinary picture, of which nothing is kept.

        Args:
            first: its first pass.
        """
        with self.account.stage(SECOND, self._host.unet), Patches(self._host.unet) as patches:
            stage = Stage(self._host, self._request, self._memory, patches, [])
            return self._host.sample(SecondTap(stage.evaluator, 1.0, None, first))
