"""OMG inside AUTOMATIC1111's web UI (v1.10): accordion, API, infotext, settings, and the two passes."""
