"""A small procedural world: pictures of figures whose identity no caption tells, with all about them known."""

from bench.world.attributes import IDENTITIES, KINDS, SCHEMA, Character, Identity, nearest_value, random_character
from bench.world.captions import VOCABULARY, random_tokens, write_caption
from bench.world.figures import UNIT_HEIGHT, Sprite, draw_figure
from bench.world.layout import MAX_OCCLUSION, OCCLUSION_TOLERANCE
from bench.world.render import Figure, Picture, random_cast, render
from bench.world.scenes import SCENES

__all__ = ["IDENTITIES", "KINDS", "MAX_OCCLUSION", "OCCLUSION_TOLERANCE", "SCENES", "SCHEMA", "UNIT_HEIGHT",
           "VOCABULARY", "Character", "Figure", "Identity", "Picture", "Sprite", "draw_figure", "nearest_value",
           "random_cast", "random_character", "random_tokens", "render", "write_caption"]
