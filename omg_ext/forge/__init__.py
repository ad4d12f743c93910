"""Forge as a host. What it shares with the web UI that it comes from (page, requests, jobs) is in ``omg_ext/webui``."""

from .host import embeddings, kept, open_host

__all__ = ["embeddings", "kept", "open_host"]
