"""OMG: occlusion-friendly personalised multi-concept generation (arXiv 2403.10983), for two hosts.

The modules here know neither the web UI nor diffusers; :mod:`omg_ext.webui` and :mod:`omg_ext.diffusers` adapt them.
"""

__version__ = "0.1.0"
