"""Methods compared: concepts, prompts and seeds become jobs, their pictures figures, and those tables and a report.

Knows no host: whatever draws is an :class:`~omg_ext.jobs.draw.Engine`.
"""
