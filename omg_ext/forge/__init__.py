"""Forge as a host. What it shares with the web UI that it comes from (page, requests, jobs) is in ``omg_ext/webui``."""

from .host import Kept, embeddings, open_host

__all__ = ["Kept", "embeddings", "open_host"]
