"""Many pictures, unattended: lists of jobs, workers that draw them, and a folder in which nothing is lost or twice.

Knows neither torch nor a host: whatever draws is an :class:`~omg_ext.jobs.draw.Engine`.
"""
