"""Workers that are not this process: other web UIs, and Ray's actors."""
