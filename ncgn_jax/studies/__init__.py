"""Studies the effects of noise, schedules and noise conditioning on exact models.

Each study is a command, `python -m ncgn_jax.studies.NAME [--workdir=...] [--quick]`.
It prints tables, reports which claims of a paper hold and by how much, and writes
`results.json`, `report.md` and figures. The studies run on the schedules, conversions
and samplers of `ncgn_jax.process`, mostly with predictors in closed form in place of
networks, in float64.
"""
