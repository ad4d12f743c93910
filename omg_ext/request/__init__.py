"""What the user asks for, and what is read from prompts and network files."""

from .schema import (
    WHERE_KINDS,
    Concept,
    Detect,
    IdentityNet,
    Layout,
    Mask,
    Request,
    Show,
    Where,
    dump_request,
    parse_request,
)

__all__ = ["WHERE_KINDS", "Concept", "Detect", "IdentityNet", "Layout", "Mask", "Request", "Show", "Where",
           "dump_request", "parse_request"]
