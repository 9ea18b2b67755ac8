"""Scores of models and of classical methods on real scans, as a report: needs the extra `evaluate`.

`cases` says on what, `methods` and `peers` by what; `scores`, `plausibility` and `raters` measure,
`statistics` sums up, `pictures` and `report` show; `run` joins them.
"""
